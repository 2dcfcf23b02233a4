// Command act answers for nektos/act, with its own code: that of a job's
// credentials, and that of a pull, whose header is read by a Docker daemon made for it.
package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
	_ "unsafe" // for go:linkname

	_ "github.com/docker/cli/cli/config"
	"github.com/nektos/act/pkg/common"
	"github.com/nektos/act/pkg/container"
	"github.com/nektos/act/pkg/model"
	"github.com/nektos/act/pkg/runner"
	"github.com/sirupsen/logrus"

	"github.com/regkeeper/regkeeper/consumer/differential/peer"
)

// resetConfigDir has the environment looked at again, as a process that starts does.
//
//go:linkname resetConfigDir github.com/docker/cli/cli/config.resetConfigDir
func resetConfigDir()

//go:linkname handleCredentials github.com/nektos/act/pkg/runner.(*RunContext).handleCredentials
func handleCredentials(rc *runner.RunContext, ctx context.Context) (username, password string, err error) //nolint:revive // the order is the method's

//go:linkname handleServiceCredentials github.com/nektos/act/pkg/runner.(*RunContext).handleServiceCredentials
func handleServiceCredentials(rc *runner.RunContext, ctx context.Context, credentials map[string]string) (username, password string, err error) //nolint:revive // the order is the method's

func main() {
	d := newDaemon()
	logrus.SetOutput(io.Discard)
	peer.Serve(map[string]peer.Client{"act": d.pull})
}

// daemon is a fake Docker daemon, written from the published API: it has no image,
// and keeps what pulls are authorised with.
type daemon struct {
	host  string
	token chan string
}

func newDaemon() *daemon {
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	d := &daemon{host: "tcp://" + l.Addr().String(), token: make(chan string, 1)}
	server := &http.Server{Handler: d, ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(l) }()
	return d
}

func (d *daemon) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Api-Version", "1.47")
	switch {
	case strings.HasSuffix(r.URL.Path, "/_ping"):
	case strings.HasSuffix(r.URL.Path, "/images/create"):
		d.token <- r.Header.Get("X-Registry-Auth")
	default:
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(w, `{"message": "no such image"}`)
	}
}

func (d *daemon) pull(q peer.Question) ([]peer.Login, error) {
	resetConfigDir()
	logger := logrus.New()
	logger.SetOutput(io.Discard)
	ctx := common.WithLogger(context.Background(), logger)
	username, password, err := given(ctx, q)
	if err != nil {
		return nil, err
	}
	_ = os.Setenv("DOCKER_HOST", d.host)
	err = container.NewDockerPullExecutor(container.NewDockerPullExecutorInput{Image: q.Image, Username: username, Password: password})(ctx)
	if err != nil {
		return nil, err
	}
	select {
	case token := <-d.token:
		return login(token)
	default:
		return nil, errors.New("the daemon was not asked")
	}
}

// given is what the job says.
func given(ctx context.Context, q peer.Question) (username, password string, err error) {
	workflow := &model.Workflow{Jobs: map[string]*model.Job{"build": {}}}
	if q.Credentials != nil {
		text, err := json.Marshal(map[string]any{"on": "push", "jobs": map[string]any{"build": map[string]any{
			"runs-on": "linux", "container": map[string]any{"image": q.Image, "credentials": q.Credentials}, "steps": []any{map[string]any{"run": "true"}},
		}}})
		if err != nil {
			return "", "", err
		}
		if workflow, err = model.ReadWorkflow(strings.NewReader(string(text)), false); err != nil {
			return "", "", err
		}
	}
	rc := &runner.RunContext{Config: &runner.Config{Secrets: q.Secrets}, Run: &model.Run{Workflow: workflow, JobID: "build"}}
	if q.Service {
		return handleServiceCredentials(rc, ctx, q.Credentials)
	}
	return handleCredentials(rc, ctx)
}

func login(token string) ([]peer.Login, error) {
	if token == "" {
		return nil, nil
	}
	text, err := base64.URLEncoding.DecodeString(token)
	if err != nil {
		return nil, err
	}
	var l struct{ Username, Password, IdentityToken, RegistryToken string }
	if err := json.Unmarshal(text, &l); err != nil {
		return nil, err
	}
	return peer.One(l), nil
}
