"""Generated protocol modules; see README.md."""
