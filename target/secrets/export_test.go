package secrets

import "time"

// SetPatience is for tests.
func (t *Target) SetPatience(patience time.Duration) { t.patience = patience }
