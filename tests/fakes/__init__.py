"""Small classes that really do the small thing, behind the Protocols of actors/."""
