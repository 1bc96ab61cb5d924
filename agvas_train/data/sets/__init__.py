"""The public data sets of the paper as users have them on disk: one adapter a format, one typed sample. No torch."""
