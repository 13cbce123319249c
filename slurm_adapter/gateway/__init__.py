"""The way in over HTTP: UCloud's door and the users' own, over the functions that the command line uses."""
