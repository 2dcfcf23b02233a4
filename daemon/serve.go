package daemon

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"
)

// Server is something served on a listener.
type Server struct {
	Name     string
	Listener net.Listener
	Handler  http.Handler
	// TLS is nil for plain HTTP.
	TLS *tls.Config
	// Patience is how long a request may take to come; zero for any time.
	Patience time.Duration
}

const (
	headerTimeout = 10 * time.Second
	// drain is how long requests under way may take when the daemon stops.
	drain = 5 * time.Second
)

// Serve serves until ctx ends, then lets requests under way end, for a while.
func Serve(ctx context.Context, servers ...Server) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, s := range servers {
		server := &http.Server{Handler: s.Handler, ReadHeaderTimeout: headerTimeout, ReadTimeout: s.Patience, TLSConfig: s.TLS}
		group.Go(func() error {
			var err error
			if s.TLS != nil {
				err = server.ServeTLS(s.Listener, "", "")
			} else {
				err = server.Serve(s.Listener)
			}
			if errors.Is(err, http.ErrServerClosed) {
				return nil
			}
			return fmt.Errorf("serve %s: %w", s.Name, err)
		})
		group.Go(func() error {
			<-ctx.Done()
			bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), drain)
			defer cancel()
			if err := server.Shutdown(bounded); err != nil {
				return server.Close()
			}
			return nil
		})
	}
	return group.Wait()
}
