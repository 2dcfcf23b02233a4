package gitlabvar_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/docker/cli/cli/config/configfile"
	"pgregory.net/rapid"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/internal/testkit/fakegitlab"
	"github.com/regkeeper/regkeeper/problem"
	"github.com/regkeeper/regkeeper/target/gitlabvar"
)

// cli is the docker CLI's own code, which reads the variable from the environment.
// What it says on standard error goes nowhere.
func cli(t *testing.T, value string) (config *configfile.ConfigFile, accepted bool) {
	t.Helper()
	t.Setenv(configfile.DockerEnvConfigKey, value)
	config = configfile.New(filepath.Join(t.TempDir(), "config.json"))
	// It has another store if it accepts the value.
	return config, strings.Contains(fmt.Sprintf("%T", config.GetCredentialsStore("any.example")), "memorystore")
}

// silence has the environment and standard error for a test's own.
func silence(t *testing.T) {
	t.Helper()
	t.Setenv(configfile.DockerEnvConfigKey, "")
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	stderr := os.Stderr
	os.Stderr = null
	t.Cleanup(func() {
		os.Stderr = stderr
		_ = null.Close()
	})
}

// values are values of the variable, good ones and others.
var values = func() *rapid.Generator[string] {
	auth := rapid.SampledFrom([]string{`"dTpw"`, `"dTpw"`, `"dTpw"`, `"dQ=="`, `"OnA="`, `"dTo="`, `""`, `"!"`, `null`, `1`, `"dTpw\n"`, `"ZDpwAA=="`})
	field := rapid.Custom(func(t *rapid.T) string {
		return fmt.Sprintf("%q:%s", rapid.SampledFrom([]string{"auth", "auth", "auth", "auth", "Auth", "AUTH", "email", "username", "identitytoken"}).Draw(t, "field"), auth.Draw(t, "auth"))
	})
	entry := rapid.Custom(func(t *rapid.T) string {
		if rapid.IntRange(0, 19).Draw(t, "odd") == 0 {
			return rapid.SampledFrom([]string{"null", "1", "[]", `"x"`}).Draw(t, "entry")
		}
		return "{" + strings.Join(rapid.SliceOfN(field, 0, 2).Draw(t, "fields"), ",") + "}"
	})
	entries := rapid.Custom(func(t *rapid.T) string {
		var all []string
		for _, one := range rapid.SliceOfN(entry, 0, 3).Draw(t, "entries") {
			all = append(all, fmt.Sprintf("%q:%s", rapid.SampledFrom([]string{"a.example", "b.example", "https://index.docker.io/v1/", ""}).Draw(t, "key"), one))
		}
		return "{" + strings.Join(all, " , ") + "}"
	})
	return rapid.Custom(func(t *rapid.T) string {
		var outer []string
		for range rapid.IntRange(0, 2).Draw(t, "outer") {
			name := rapid.SampledFrom([]string{"auths", "auths", "auths", "auths", "Auths", "credsStore", "credHelpers", "x"}).Draw(t, "name")
			value := entries.Draw(t, "value")
			if rapid.IntRange(0, 19).Draw(t, "odd") == 0 {
				value = rapid.SampledFrom([]string{"null", "1", "[]", `"x"`}).Draw(t, "odd value")
			}
			outer = append(outer, fmt.Sprintf("%q: %s", name, value))
		}
		tail := rapid.SampledFrom([]string{"", "", "", "", "\n", "{}", "]", "}", "x"}).Draw(t, "tail")
		return "{" + strings.Join(outer, ",") + "}" + tail
	})
}()

// TestStrictIsTheCLIs compares [gitlabvar.Strict] with the docker CLI's own code.
func TestStrictIsTheCLIs(t *testing.T) {
	silence(t)
	yes, no := 0, 0
	compare := func(errorf func(string, ...any), value string) {
		_, want := cli(t, value)
		if want {
			yes++
		} else {
			no++
		}
		err := gitlabvar.Strict(value)
		if (err == nil) != want {
			errorf("%s: the CLI accepts it: %t; we say %v", value, want, err)
		}
		if err != nil && problem.KindOf(err) != problem.Config {
			errorf("%s: an error of kind %s", value, problem.KindOf(err))
		}
	}
	for _, value := range []string{
		oursAlone, `{}`, `{"auths":null}`, `null`, ` `, `[]`, `1`, `"x"`, `{"auths":{}}{"auths":{}}`, `{"auths":{}} x`, `{"auths":{}}]`, `{`, `{"auths":`,
		`{"auths":{"a":{"auth":"dTpw"}},"auths":{"b":{"x":1}}}`, `{"auths":{"a":{"auth":"dTpw","auth":1}}}`,
	} {
		compare(t.Errorf, value)
	}
	rapid.Check(t, func(rt *rapid.T) { compare(rt.Errorf, values.Draw(rt, "value")) })
	if yes < 10 || no < 10 {
		t.Errorf("%d values were accepted and %d not: that compares little", yes, no)
	}
}

// TestTheCLIFindsTheLogin sees that the docker CLI's own code finds what was
// delivered.
func TestTheCLIFindsTheLogin(t *testing.T) {
	silence(t)
	w := start(t, fakegitlab.Config{})
	hosts := []credential.Host{"gitea.example.com", "gitea.example.com:5000", credential.DockerHub, "[::1]:5000"}
	all := logins{}
	for i, host := range hosts {
		all[host] = credential.Login{Username: fmt.Sprint("bot-", i), Secret: credential.NewSecret(fmt.Sprint("hunter2:<&>-", i))}
	}
	if err := w.one(t).Deliver(t.Context(), inProject, all); err != nil {
		t.Fatal(err)
	}
	v, _ := w.at(inProject)
	config, accepted := cli(t, v.Value)
	if !accepted {
		t.Fatal("the CLI does not accept the value")
	}
	for i, host := range hosts {
		found, err := config.GetAuthConfig(string(host))
		if err != nil || found.Username != fmt.Sprint("bot-", i) || found.Password != fmt.Sprint("hunter2:<&>-", i) {
			t.Errorf("%s: found %s, %v", host, found.Username, err)
		}
	}
}

// FuzzStrict sees that no value makes a panic, and that an error quotes no value.
func FuzzStrict(f *testing.F) {
	for _, seed := range []string{oursAlone, `{"auths":{"a":{"auth":"$X"}}}`, `{"credsStore":"x"}`, `null`, `[`, "{}{}", `{"auths":{"a":{"auth":1}}}`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		if err := gitlabvar.Strict(value); err != nil && problem.KindOf(err) != problem.Config {
			t.Errorf("%q: %v", value, err)
		}
	})
}
