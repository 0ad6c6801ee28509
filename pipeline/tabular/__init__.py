"""The third pipeline: a table of random networks trained under one recipe, to compare estimates of errors on."""
