"""What a session's history says, in words and figures. Pure: reads no log and knows no clock."""
