"""Chapter 9: published weights in chapter 6's GPT, and decoding at the speed of memory."""
