"""Chapter 9: published weights in chapter 6's GPT, and a token at the speed of memory."""
