"""Mathematical answers: text to tokens, tokens to forms, forms compared exactly."""
