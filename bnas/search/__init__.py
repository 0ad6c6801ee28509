"""Selection, generations, co-evolution and the search in the frozen supernet."""
