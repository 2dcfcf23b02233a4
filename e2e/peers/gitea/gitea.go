// Package gitea owns a real Gitea: forge, API, container registry and Actions.
//
// It refuses short cuts into its database: users, tokens, repositories and
// workflow runs are made and read through the API, as regkeeper's users do.
package gitea

import (
	"crypto/rand"
	_ "embed"
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/template"
	"time"

	sdk "code.gitea.io/sdk/gitea"

	"github.com/regkeeper/regkeeper/e2e/peers"
	"github.com/regkeeper/regkeeper/e2e/peers/build"
	"github.com/regkeeper/regkeeper/e2e/peers/process"
)

// Tool is Gitea's binary. Without the tag bindata its templates and locales
// are read from the source folder.
var Tool = build.Tool{
	Name:       "gitea",
	Package:    "code.gitea.io/gitea",
	Module:     "gitea/build",
	Tags:       "sqlite sqlite_unlock_notify",
	VersionVar: "main.Version",
}

// Server is a Gitea on loopback with an empty database but for one site
// administrator. Its methods end the test on an error.
type Server struct {
	URL      string // http://127.0.0.1:port, no slash at the end
	Host     string // 127.0.0.1:port, the registry's host
	Admin    string // name of the site administrator
	Password string // of the site administrator
	Version  string // v1.2.3

	t       testing.TB
	bin     string
	dir     string
	process *process.Process
}

// Start starts a server that ends with the test. The first call of a test
// process builds Gitea when the cache has none, and migrates a database that
// the others copy.
func Start(t testing.TB) *Server {
	t.Helper()
	return StartAt(t, "127.0.0.1")
}

// StartAt starts a server at an address of this machine, which others reach it
// at too.
func StartAt(t testing.TB, address string) *Server {
	t.Helper()
	peers.Need(t, "git", "gcc")
	bin := build.Go(t, Tool)
	s := &Server{Version: bin.Version, Admin: admin, t: t, bin: bin.Path, dir: t.TempDir()}

	// The listener cannot be handed over with LISTEN_FDS: a Gitea that is given
	// one takes itself for the second half of an upgrade and sends SIGTERM to
	// its parent.
	var err error
	if s.Host, err = peers.FreeAddress(address); err != nil {
		t.Fatalf("find free port: %v", err)
	}
	s.URL = "http://" + s.Host
	if err := configure(s.dir, bin.Source, s.Host); err != nil {
		t.Fatalf("configure gitea: %v", err)
	}
	seed, err := seeded(t, bin)
	if err != nil {
		t.Fatalf("migrate gitea: %v", err)
	}
	s.Password = seed.password
	if err := os.WriteFile(filepath.Join(s.dir, "gitea.db"), seed.file, 0o600); err != nil {
		t.Fatalf("copy database: %v", err)
	}
	s.start()
	return s
}

// Stop ends the server as a planned outage does: its port refuses connections.
func (s *Server) Stop() {
	s.t.Helper()
	s.process.Stop()
}

// Restart starts a stopped server again, on its port, with its data.
func (s *Server) Restart() {
	s.t.Helper()
	s.process.Stop()
	s.start()
}

func (s *Server) start() {
	s.t.Helper()
	s.process = process.Start(s.t, command(s.bin, s.dir, "web"))
	client := &http.Client{Timeout: 5 * time.Second}
	s.process.Until(s.t, time.Minute, "gitea", func() bool {
		resp, err := client.Get(s.URL + "/api/healthz")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
}

// Client is an API client for a user with a password or a token, for use until
// the test ends.
func (s *Server) Client(username, password string) *sdk.Client {
	s.t.Helper()
	c, err := sdk.NewClient(s.URL, sdk.SetBasicAuth(username, password), sdk.SetContext(s.t.Context()))
	if err != nil {
		s.t.Fatalf("make gitea client: %v", err)
	}
	return c
}

// CreateUser makes a user whom only signed-in users who may know of them can
// see, so the images the user owns are private: Gitea's registry knows no
// other privacy.
func (s *Server) CreateUser(name string) (password string) {
	s.t.Helper()
	password = rand.Text()
	visibility, change := sdk.VisibleTypePrivate, false
	_, _, err := s.Client(s.Admin, s.Password).AdminCreateUser(sdk.CreateUserOption{
		Username:           name,
		Email:              name + "@example.test",
		Password:           password,
		MustChangePassword: &change,
		Visibility:         &visibility,
	})
	if err != nil {
		s.t.Fatalf("create user %s: %v", name, err)
	}
	return password
}

// CreateToken mints a personal access token, with scopes such as
// "read:package". A name must not parse as a number.
func (s *Server) CreateToken(user, password, name string, scopes ...string) (id int64, token string) {
	s.t.Helper()
	option := sdk.CreateAccessTokenOption{Name: name}
	for _, scope := range scopes {
		option.Scopes = append(option.Scopes, sdk.AccessTokenScope(scope))
	}
	created, _, err := s.Client(user, password).CreateAccessToken(option)
	if err != nil {
		s.t.Fatalf("create token %s of %s: %v", name, user, err)
	}
	return created.ID, created.Token
}

// ListTokens lists all tokens of a user; a listed token does not say its secret.
func (s *Server) ListTokens(user, password string) []*sdk.AccessToken {
	s.t.Helper()
	client := s.Client(user, password)
	var all []*sdk.AccessToken
	for page := 1; ; page++ {
		tokens, _, err := client.ListAccessTokens(sdk.ListAccessTokensOptions{ListOptions: sdk.ListOptions{Page: page, PageSize: 50}})
		if err != nil {
			s.t.Fatalf("list tokens of %s: %v", user, err)
		}
		if len(tokens) == 0 {
			return all
		}
		all = append(all, tokens...)
	}
}

// DeleteToken revokes a token.
func (s *Server) DeleteToken(user, password string, id int64) {
	s.t.Helper()
	if _, err := s.Client(user, password).DeleteAccessToken(id); err != nil {
		s.t.Fatalf("delete token %d of %s: %v", id, user, err)
	}
}

const admin = "keeper"

// database is a migrated database with one administrator.
type database struct {
	file     []byte
	password string
}

var (
	mu   sync.Mutex
	seed database
)

// seeded migrates a database once for the test process.
func seeded(t testing.TB, bin build.Binary) (database, error) {
	mu.Lock()
	defer mu.Unlock()
	var err error
	if seed.file == nil {
		seed, err = migrate(t, bin)
	}
	return seed, err
}

func migrate(t testing.TB, bin build.Binary) (database, error) {
	dir, err := os.MkdirTemp("", "gitea-")
	if err != nil {
		return database{}, fmt.Errorf("create folder: %w", err)
	}
	defer os.RemoveAll(dir)
	if err := configure(dir, bin.Source, "127.0.0.1:1"); err != nil {
		return database{}, err
	}
	password := rand.Text()
	for _, args := range [][]string{
		{"migrate"},
		{"admin", "user", "create", "--admin", "--username", admin, "--password", password, "--email", admin + "@example.test", "--must-change-password=false"},
	} {
		if _, err := process.Output(t.Context(), command(bin.Path, dir, args...)); err != nil {
			return database{}, err
		}
	}
	file, err := os.ReadFile(filepath.Join(dir, "gitea.db"))
	if err != nil {
		return database{}, fmt.Errorf("read database: %w", err)
	}
	return database{file, password}, nil
}

// command is Gitea with its data in dir and nothing of the caller's GITEA_*
// variables or git configuration.
func command(bin, dir string, args ...string) *exec.Cmd {
	cmd := exec.Command(bin, slices.Concat(args, []string{"--config", filepath.Join(dir, "app.ini")})...)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "USER=" + username(), "GITEA_WORK_DIR=" + dir}
	return cmd
}

//go:embed app.ini.tmpl
var appINI string

func configure(dir, source, host string) error {
	ini, err := template.New("app.ini").Parse(appINI)
	if err != nil {
		return fmt.Errorf("parse template: %w", err)
	}
	address, port, err := net.SplitHostPort(host)
	if err != nil {
		return fmt.Errorf("parse address: %w", err)
	}
	var text strings.Builder
	if err := ini.Execute(&text, map[string]any{
		"User": username(), "Root": os.Geteuid() == 0, "Dir": dir, "Source": source, "Address": address, "Port": port,
		"Secret": rand.Text(),
		// The form Gitea generates itself: 32 bytes, base64url without padding.
		"JWT": base64.RawURLEncoding.EncodeToString([]byte(rand.Text() + rand.Text())[:32]),
	}); err != nil {
		return fmt.Errorf("fill template: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "app.ini"), []byte(text.String()), 0o600); err != nil {
		return fmt.Errorf("write app.ini: %w", err)
	}
	return nil
}

func username() string {
	u, err := user.Current()
	if err != nil {
		return os.Getenv("USER")
	}
	return u.Username
}
