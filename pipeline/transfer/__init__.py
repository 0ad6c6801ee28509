"""The second pipeline: a front that was searched on one data set, retrained and tested on another."""
