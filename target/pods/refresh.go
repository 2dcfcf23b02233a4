package pods

import (
	"context"

	"github.com/regkeeper/regkeeper/credential"
)

var _ credential.Refresher = (*Target)(nil)

// Refresh asks the cluster for the pods.
func (t *Target) Refresh(ctx context.Context) error { return t.mirror.Refresh(ctx) }
