package credential_test

import (
	"encoding/hex"
	"fmt"
	"math/big"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/regkeeper/regkeeper/credential"
)

func TestScopes(t *testing.T) {
	given := []credential.Scope{credential.Push, credential.Pull, credential.Push}
	got := credential.ScopesOf(given...)
	if diff := cmp.Diff(credential.Scopes{credential.Pull, credential.Push}, got); diff != "" {
		t.Errorf("set (-want +got):\n%s", diff)
	}
	if given[0] != credential.Push {
		t.Error("ScopesOf changed its arguments")
	}
	if got.String() != "pull,push" || credential.ScopesOf().String() != "" {
		t.Errorf("strings are %q and %q", got, credential.ScopesOf())
	}
	if !got.Has(credential.Pull) || got.Has(credential.Delete) || credential.ScopesOf().Has("") {
		t.Error("Has is wrong")
	}
	if !got.Equal(credential.Scopes{credential.Push, credential.Pull, credential.Pull}) || got.Equal(credential.ScopesOf(credential.Pull)) ||
		!credential.Scopes(nil).Equal(credential.Scopes{}) {
		t.Error("Equal is wrong")
	}
}

func TestSecret(t *testing.T) {
	var zero credential.Secret
	if !zero.Empty() || zero.Reveal() != "" || !zero.Equal(credential.NewSecret("")) || zero.Fingerprint() != credential.NewSecret("").Fingerprint() {
		t.Error("the zero Secret is not an empty one")
	}
	rapid.Check(t, func(rt *rapid.T) {
		a, b := rapid.String().Draw(rt, "a"), rapid.String().Draw(rt, "b")
		x, y := credential.NewSecret(a), credential.NewSecret(b)
		if x.Reveal() != a || x.Empty() != (a == "") || x.Equal(y) != (a == b) || !x.Equal(credential.NewSecret(strings.Clone(a))) {
			rt.Errorf("secrets %q and %q", a, b)
		}
		name := x.Fingerprint()
		if raw, err := hex.DecodeString(name); err != nil || len(raw) != 4 || (name == y.Fingerprint()) != (a == b) {
			rt.Errorf("fingerprints %q and %q", name, y.Fingerprint())
		}
		if (credential.Login{Username: a, Secret: y}).Equal(credential.Login{Username: b, Secret: x}) != (a == b) {
			rt.Error("Login.Equal is wrong")
		}
	})
}

func TestMark(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		instance := rapid.SampledFrom([]string{"", "a", "b", "1", "01", "a-b"})
		host := rapid.SampledFrom([]credential.Host{"a", "b", "docker.io", "a:1", "1", ""})
		i1, i2, h1, h2 := instance.Draw(rt, "i1"), instance.Draw(rt, "i2"), host.Draw(rt, "h1"), host.Draw(rt, "h2")
		serial := rapid.StringMatching(`[0-9a-z-]{0,12}`).Draw(rt, "serial")
		a, b := credential.MarkOf(i1, h1), credential.MarkOf(i2, h2)
		same := i1 == i2 && h1 == h2
		if (a == b) != same {
			rt.Fatalf("marks %s and %s", a, b)
		}
		if strings.HasPrefix(string(a), string(b)) != same {
			rt.Fatalf("%s is the beginning of %s", b, a)
		}
		if !a.Owns(a.Name(serial)) || b.Owns(a.Name(serial)) != same {
			rt.Fatalf("%s and %s own %s", a, b, a.Name(serial))
		}
		for _, name := range []string{string(a), a.Name(serial)} {
			if isNumber(name) {
				rt.Fatalf("%q reads as a number", name)
			}
			if strings.ContainsFunc(string(a), func(r rune) bool {
				return r != '-' && (r < '0' || r > '9') && (r < 'a' || r > 'z')
			}) {
				rt.Fatalf("%q has a special character", a)
			}
		}
		if len(a) != len(b) {
			rt.Fatalf("marks %s and %s differ in length", a, b)
		}
	})
	mark := credential.MarkOf("instance", "gitea.example.com")
	for _, name := range []string{"", string(mark), string(mark) + "x-1", "x" + mark.Name("1"), strings.ToUpper(mark.Name("1")), " " + mark.Name("1")} {
		if mark.Owns(name) {
			t.Errorf("%s owns %q", mark, name)
		}
	}
	for _, name := range []string{"", "-", "-1", "regkeeper-1"} {
		if credential.Mark("").Owns(name) {
			t.Errorf("the empty mark owns %q", name)
		}
	}
	if mark != credential.MarkOf("instance", "gitea.example.com") {
		t.Error("a mark is not stable")
	}
}

// isNumber asks every parser at hand.
func isNumber(s string) bool {
	_, err1 := strconv.ParseInt(s, 0, 64)
	_, err2 := strconv.ParseFloat(s, 64)
	_, _, err3 := new(big.Float).Parse(s, 0)
	var n int
	_, err4 := fmt.Sscan(s, &n)
	return err1 == nil || err2 == nil || err3 == nil || err4 == nil
}
