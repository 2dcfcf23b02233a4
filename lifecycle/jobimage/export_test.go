package jobimage

// ReadOn sets how much of a layer, in bytes, is read on to its end although
// nothing depends on it.
func (c *Checker) ReadOn(bytes int64) *Checker {
	c.rest = bytes
	return c
}
