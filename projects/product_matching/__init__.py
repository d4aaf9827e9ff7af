"""Product matching: images of products in, embeddings and their matches out."""
