"""Values that stages hand each other as JSON and CSV, one module for each stage that writes them."""
