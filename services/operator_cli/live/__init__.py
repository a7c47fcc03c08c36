"""`farlab top`: a screen of what goes on now, with the stories behind it. Changes nothing."""
