"""Small workers that really compute something, behind the Protocols of actors/."""
