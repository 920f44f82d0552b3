"""The book's stages: each file is a lesson to read, import and run (`python -m chapters.ch01_tokenizer --help`)."""
