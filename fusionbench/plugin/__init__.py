"""What an author of a plugin derives from, and how plugins are found."""
