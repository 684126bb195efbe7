"""The methods, each a few declarative lines; the defaults are the published setting."""
