package cli_test

import (
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/regkeeper/regkeeper/internal/testkit/fakegitearunner"
	"github.com/regkeeper/regkeeper/internal/testkit/fakegitlabrunner"
)

// scriptRunners starts a fake server of runners until the script ends: runners
// gitlab|gitea VARIABLE. The variable is its URL; VARIABLE_RUNNER is the token of a
// runner that was created there.
func scriptRunners(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: runners gitlab|gitea VARIABLE")
	}
	var fake http.Handler
	if args[0] == "gitlab" {
		gitlab := fakegitlabrunner.New(fakegitlabrunner.Config{
			AccessToken: "glpat-access", RegistrationToken: "GR-registration", Lifetime: 30 * 24 * time.Hour, Now: time.Now,
		})
		ts.Setenv(args[1]+"_RUNNER", gitlab.Put().Token)
		fake = gitlab
	} else {
		fake = fakegitearunner.New(fakegitearunner.Config{AccessToken: "access", RegistrationToken: "registration"})
	}
	server := httptest.NewServer(fake)
	ts.Defer(server.Close)
	ts.Setenv(args[1], server.URL)
}
