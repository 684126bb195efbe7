"""Plans of a run before it is run: time and disk measured by its first steps, memory traced on the meta device."""
