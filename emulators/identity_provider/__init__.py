"""An emulated OpenID provider: sign-in, tokens and their end as the specifications say, with a few named users."""
