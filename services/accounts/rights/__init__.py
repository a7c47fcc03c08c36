"""What an identity provider says of a user's rights, read into one tree whatever form it came in. Pure.

Unknown things are let pass, malformed ones are skipped and named, so that an operator can see them.
"""
