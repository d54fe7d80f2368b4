"""How fast training, inference and input are on this machine, and what memory they take."""
