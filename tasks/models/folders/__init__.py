"""Golden sets and calibration pools from a folder of files and a table of labels."""
