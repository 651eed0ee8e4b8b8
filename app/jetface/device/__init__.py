"""The machine this runs on: what it is, what is wrong with it, how it fares."""
