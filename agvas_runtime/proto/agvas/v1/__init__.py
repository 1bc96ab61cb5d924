"""Version 1 of the inspection protocol."""
