"""The report as one self-contained HTML file: nothing is fetched, and nothing but a browser is needed."""
