package cli

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/regkeeper/regkeeper/app"
	"github.com/regkeeper/regkeeper/config"
	"github.com/regkeeper/regkeeper/controller"
	"github.com/regkeeper/regkeeper/daemon"
	"github.com/regkeeper/regkeeper/internal/disk"
	"github.com/regkeeper/regkeeper/problem"
	"github.com/regkeeper/regkeeper/registry/builtin"
)

func newUp(e *env) *cobra.Command {
	var address, health string
	c := &cobra.Command{
		Use:   "up",
		Short: "Start, do the main job, and stay",
		Long: `Up keeps the logins of the configuration: it mints, verifies, delivers and rotates
them, heals what others change, and serves health and metrics, until it is stopped.

Without a configuration it starts the embedded registry under the data folder, pushes
a private image, mints a login for it, delivers that to a config.json of its own, and
proves that the image can be pulled with that file and not without it, before and
after a rotation.

The configuration is taken up anew when it changes, and on SIGHUP.`,
		Example: example("regkeeper up", "regkeeper up --data /tmp/try --listen 127.0.0.1:5005", "regkeeper up --config regkeeper.yaml"),
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return e.up(c.Context(), address, health)
		},
	}
	c.Flags().StringVar(&address, "listen", "", "where the embedded registry listens when there is no configuration (default 127.0.0.1:5000, or a free port)")
	c.Flags().StringVar(&health, "health", "", "where health and metrics are served, in place of what the configuration says, such as :9470")
	return c
}

func (e *env) up(ctx context.Context, address, health string) error {
	path, folder, err := e.locate()
	if err != nil {
		return err
	}
	if path != "" && address != "" {
		return problem.New(problem.Usage, "set serve.registry.listen in "+path, "--listen is for a start without a configuration")
	}
	var c config.Config
	if path != "" {
		// Before the data folder is made, and before anything is started.
		if c, err = loadUp(path, health); err != nil {
			return err
		}
	}
	data, err := app.Open(ctx, c, folder, e.options())
	if err != nil {
		return err
	}
	defer func() { _ = data.Close() }()
	u := &upRun{env: e, log: e.logger(), data: data, path: path, health: health}
	defer func() {
		if u.listener != nil {
			_ = u.listener.Close()
		}
	}()
	if path == "" {
		if u.listener, err = listenDefault(ctx, folder, address); err != nil {
			return err
		}
		c = defaultConfig(folder, u.listener.Addr().String())
		c.Health = cmp.Or(health, c.Health)
	}
	return u.run(ctx, c)
}

// loadUp reads the configuration, with the health address of the command line
// in the place of its own, if there is one.
func loadUp(path, health string) (config.Config, error) {
	c, err := config.Load(path)
	c.Health = cmp.Or(health, c.Health)
	return c, err
}

// upRun is one run of up.
type upRun struct {
	*env
	log  *slog.Logger
	data *app.Data
	// path is the configuration's; empty for the defaults.
	path string
	// health is the command line's address; empty for the configuration's.
	health string
	// listener is the embedded registry's, where it is open already.
	listener net.Listener
	// registry is the embedded one; nil where there is none.
	registry *builtin.Registry
}

func (u *upRun) run(ctx context.Context, c config.Config) error {
	servers, closers, err := u.listen(ctx, c)
	defer func() {
		for _, c := range closers {
			_ = c()
		}
	}()
	if err != nil {
		return err
	}
	metrics := daemon.NewMetrics(version().Version)
	d := daemon.New(daemon.Config{
		Load: func() (daemon.Setup, error) {
			latest := c
			if u.path != "" {
				var err error
				if latest, err = loadUp(u.path, u.health); err != nil {
					return daemon.Setup{}, err
				}
				if !reflect.DeepEqual(latest.State, c.State) {
					latest.Warnings = append(latest.Warnings, "state changed: restart to have it taken up")
				}
				if !sameServe(latest, c) {
					latest.Warnings = append(latest.Warnings, "what is under serve changed: restart to have it taken up")
				}
			}
			return app.Setup(latest, u.data, daemon.Report(u.log, metrics))
		},
		Log: u.log, Metrics: metrics, Watched: nonEmpty(u.path),
	})
	control, err := listenControl(ctx, u.data.Folder)
	if err != nil {
		u.log.Warn("no control socket: rotate and sync cannot reach this daemon", "error", err)
	} else {
		servers = append(servers, daemon.Server{Name: "control", Listener: control, Handler: lends(collects(d.Control(), u.registry), u.data)})
	}
	health, err := u.listenHealth(ctx, c)
	if err != nil {
		return err
	}
	servers = append(servers, daemon.Server{Name: "health", Listener: health, Handler: d.Health()})
	if c.Webhooks != nil {
		handler, err := app.Webhooks(ctx, c, u.data)
		if err != nil {
			return err
		}
		listener, err := listen(ctx, c.Webhooks.Listen)
		if err != nil {
			return busy(err, "set serve.webhooks.listen to a free port", "webhooks")
		}
		servers = append(servers, daemon.Server{Name: "webhooks", Listener: listener, Handler: handler, Patience: webhookPatience})
	}

	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return daemon.Serve(ctx, servers...) })
	group.Go(func() error {
		if u.path == "" {
			if err := u.prove(ctx, c); err != nil {
				return err
			}
		}
		u.started(c, health.Addr().String())
		if u.data.InCluster() {
			d.StandBy()
			frugal()
		}
		return u.data.Lead(ctx, controller.Config{Identity: identity()}, d.Run)
	})
	group.Go(func() error {
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-u.hangup:
				d.Reload()
			}
		}
	})
	err = group.Wait()
	if errors.Is(err, context.Canceled) || err == nil {
		u.log.Info("stopped")
		return nil
	}
	return err
}

// webhookPatience is how long a registry may take to send a message.
const webhookPatience = 30 * time.Second

// frugal trades some computing for memory, which a pod has less of, unless the
// environment says otherwise (runtime, variable GOGC).
func frugal() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(frugalGC)
	}
}

// frugalGC is by how many percent the heap grows between collections.
const frugalGC = 25

// upEvent is what up prints in JSON, one object a line: "proved" for each thing
// it showed, then "up".
type upEvent struct {
	Event string `json:"event"`
	Text  string `json:"text,omitempty"`
	// Registry is where the embedded registry listens, Health the address of
	// the health endpoints.
	Registry string `json:"registry,omitempty"`
	Health   string `json:"health,omitempty"`
}

func (u *upRun) started(c config.Config, health string) {
	if !u.json() {
		u.printf("health and metrics: http://%s/healthz /readyz /metrics\n", health)
		u.printf("regkeeper is up; stop it with Ctrl-C\n")
		return
	}
	event := upEvent{Event: "up", Health: "http://" + health}
	if c.Embedded != nil {
		event.Registry = u.listener.Addr().String()
	}
	u.printLine(event)
}

func nonEmpty(path string) []string {
	if path == "" {
		return nil
	}
	return []string{path}
}

func sameServe(a, b config.Config) bool {
	if a.Health != b.Health || (a.Embedded == nil) != (b.Embedded == nil) || !reflect.DeepEqual(a.Webhooks, b.Webhooks) {
		return false
	}
	return a.Embedded == nil || fmt.Sprint(*a.Embedded) == fmt.Sprint(*b.Embedded)
}

// listen opens the embedded registry, if the configuration has one.
func (u *upRun) listen(ctx context.Context, c config.Config) (servers []daemon.Server, closers []func() error, err error) {
	if c.Embedded == nil {
		return nil, nil, nil
	}
	registry, err := app.Registry(c, u.data, u.log)
	if err != nil {
		return nil, nil, err
	}
	u.registry = registry
	closers = append(closers, registry.Close)
	if u.listener == nil {
		if u.listener, err = listen(ctx, c.Embedded.Listen); err != nil {
			return nil, closers, busy(err, "set serve.registry.listen to a free port", "embedded registry")
		}
	}
	server := daemon.Server{Name: "registry", Listener: u.listener, Handler: registry}
	if c.Embedded.Cert != "" {
		if server.TLS, err = tlsConfig(c.Embedded.Cert, c.Embedded.Key); err != nil {
			return nil, closers, err
		}
	}
	return []daemon.Server{server}, closers, nil
}

// tlsConfig reads the certificate at each handshake, so that a renewed one is
// taken up without a restart.
func tlsConfig(cert, key string) (*tls.Config, error) {
	load := func() (*tls.Certificate, error) {
		pair, err := tls.LoadX509KeyPair(cert, key)
		return &pair, err
	}
	if _, err := load(); err != nil {
		return nil, problem.Wrap(err, problem.Config, "check serve.registry.tls", "load certificate %s", cert)
	}
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return load() },
	}, nil
}

func listen(ctx context.Context, address string) (net.Listener, error) {
	return new(net.ListenConfig).Listen(ctx, "tcp", address)
}

// busy makes a problem of a listener that could not be opened.
func busy(err error, hint, what string) error {
	if !errors.Is(err, syscall.EADDRINUSE) {
		return problem.Wrap(err, problem.Config, "name an address of this machine, and a port this user may open", "%s", what)
	}
	return problem.Wrap(err, problem.Busy, hint, "%s", what)
}

func (u *upRun) listenHealth(ctx context.Context, c config.Config) (net.Listener, error) {
	listener, err := listen(ctx, c.Health)
	if err != nil && u.path == "" && u.health == "" {
		return listen(ctx, "127.0.0.1:0")
	}
	if err != nil {
		hint := "set serve.health.listen to a free port"
		if u.health != "" {
			hint = "give --health a free port"
		}
		return nil, busy(err, hint, "health endpoints")
	}
	return listener, nil
}

// listenControl opens the socket that the command line gives orders on. The
// data folder is ours, so that a socket there is one that a crash left.
func listenControl(ctx context.Context, folder string) (net.Listener, error) {
	path := app.Control(folder)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	return listenPrivately(ctx, path)
}

// addressName is where up remembers, in the data folder, which address it took
// without a configuration: the images' names begin with it.
const addressName = "listen"

// rememberedAddress is that address. A file with anything else in it counts as
// none.
func rememberedAddress(folder string) (string, bool) {
	text, err := os.ReadFile(filepath.Join(folder, addressName))
	address := strings.TrimSpace(string(text))
	return address, err == nil && checkAddress(address) == nil
}

// checkAddress refuses what cannot stand at the beginning of an image's name.
func checkAddress(address string) error {
	host, port, err := net.SplitHostPort(address)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		return problem.New(problem.Usage, "write it as 127.0.0.1:5000", "--listen %q cannot be read", address)
	}
	if ip, err := netip.ParseAddr(host); host == "" || err == nil && ip.IsUnspecified() {
		return problem.New(problem.Usage,
			"name the one address that clients will use, such as 127.0.0.1:5000; to serve others, write a regkeeper.yaml with serve.registry",
			"--listen %q is every address of this machine", address)
	}
	return nil
}

// listenDefault opens the address of the last time, or the one asked for, or
// the usual one, or any that is free.
func listenDefault(ctx context.Context, folder, asked string) (net.Listener, error) {
	address, remembered := rememberedAddress(folder)
	usual := "127.0.0.1:5000"
	switch {
	case asked != "":
		if err := checkAddress(asked); err != nil {
			return nil, err
		}
		address = asked
	case !remembered:
		address = usual
	}
	listener, err := listen(ctx, address)
	if err != nil && asked == "" && !remembered {
		listener, err = listen(ctx, "127.0.0.1:0")
	}
	if err != nil {
		return nil, busy(err, "stop what uses the address, or choose another with --listen", "embedded registry")
	}
	path := filepath.Join(folder, addressName)
	if err := disk.WriteFile(path, []byte(listener.Addr().String()+"\n"), disk.PrivateFile); err != nil {
		_ = listener.Close()
		return nil, err
	}
	return listener, nil
}

// defaults is the configuration that up has without one.
const defaults = `registries:
  - host: %[1]q
    source: {builtin: {}}
    scopes: [pull]
    rotate: {every: 30d, overlap: 1h}
targets:
  - name: docker
    file: {path: %[2]q}
serve:
  registry: {listen: %[1]q}
`

func defaultConfig(folder, address string) config.Config {
	text := fmt.Sprintf(defaults, address, filepath.Join(folder, "docker", "config.json"))
	c, err := config.Parse("the built-in defaults", folder, []byte(text))
	if err != nil {
		// The text is part of the program; a test parses it.
		panic(err)
	}
	// The folder is meant as it is written, also where it looks like a pattern.
	c.Targets[0].File.Literal = true
	return c
}

// moment is a time for printing: nil for none.
func moment(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func join(words []string) string { return strings.Join(words, ",") }
