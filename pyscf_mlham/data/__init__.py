"""Labelled molecules: the file format, its reader and writer, and what training makes of it."""
