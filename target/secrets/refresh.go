package secrets

import (
	"context"

	"github.com/regkeeper/regkeeper/credential"
)

var _ credential.Refresher = (*Target)(nil)

// Refresh asks the cluster for the namespaces and their Secrets.
func (t *Target) Refresh(ctx context.Context) error {
	for _, mirror := range t.namespaces {
		if err := mirror.Refresh(ctx); err != nil {
			return err
		}
	}
	return t.secrets.Refresh(ctx)
}
