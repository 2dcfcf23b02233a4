package kube

// Patient is for tests.
var Patient = patient

// NewBounded is for tests.
func NewBounded(most int) *bounded { return &bounded{max: most} }

// Kept is for tests.
func (b *bounded) Kept() ([]byte, bool) { return b.kept() }
