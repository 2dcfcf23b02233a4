package dockerconfig_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/dockerconfig"
	"github.com/regkeeper/regkeeper/problem"
)

func TestDelivered(t *testing.T) {
	t.Parallel()
	const where = "a/config.json of b"
	hosts := []credential.Host{"a.example.com", "b.example.com", "c.example.com"}
	ours := map[credential.Host]credential.Login{hosts[1]: login("bot", "next"), hosts[0]: login("bot", "first")}
	before := `{"auths":{"c.example.com":{"auth":"bWU6bWluZQ=="}},"x":1.0}`
	after, changed, err := dockerconfig.Delivered(where, []byte(before), ours)
	if err != nil || !changed {
		t.Fatalf("changed %v: %v", changed, err)
	}
	want := `{"auths":{"c.example.com":{"auth":"bWU6bWluZQ=="},"a.example.com":{"auth":"Ym90OmZpcnN0"},"b.example.com":{"auth":"Ym90Om5leHQ="}},"x":1.0}`
	if diff := cmp.Diff(want, string(after)); diff != "" {
		t.Errorf("the document (-want +got):\n%s", diff)
	}
	again, changed, err := dockerconfig.Delivered(where, after, ours)
	if err != nil || changed || string(again) != string(after) {
		t.Errorf("delivered again, changed is %v: %v: %s", changed, err, again)
	}
	held, err := dockerconfig.Held(where, after, append(hosts, "d.example.com"))
	if err != nil || len(held) != 3 || !held[hosts[0]].Equal(ours[hosts[0]]) || !held[hosts[1]].Equal(ours[hosts[1]]) || !held[hosts[2]].Equal(login("me", "mine")) {
		t.Errorf("held are %v: %v", held, err)
	}
	if held, err := dockerconfig.Held(where, nil, hosts); err != nil || held == nil || len(held) > 0 {
		t.Errorf("an empty document holds %v: %v", held, err)
	}
}

// What no client reads is not written, and its place is named.
func TestDeliveredRefuses(t *testing.T) {
	t.Parallel()
	const where = "a/config.json of b"
	ours := map[credential.Host]credential.Login{"a.example.com": login("bot", "secret")}
	for document, kind := range map[string]problem.Kind{
		`{"auths":`:                problem.Damaged,
		`{"credsStore":"desktop"}`: problem.Config,
		`{"credHelpers":{"a.example.com":"helper"}}`: problem.Config,
	} {
		after, changed, err := dockerconfig.Delivered(where, []byte(document), ours)
		if after != nil || changed || problem.KindOf(err) != kind || !strings.Contains(err.Error(), where) {
			t.Errorf("%s: delivered is %q, %v: %v", document, after, changed, err)
		}
		held, err := dockerconfig.Held(where, []byte(document), []credential.Host{"a.example.com"})
		if held != nil || problem.KindOf(err) != kind || !strings.Contains(err.Error(), where) {
			t.Errorf("%s: held is %v: %v", document, held, err)
		}
	}
	// A helper of another host is none of ours.
	if _, changed, err := dockerconfig.Delivered(where, []byte(`{"credHelpers":{"c.example.com":"helper"}}`), ours); err != nil || !changed {
		t.Errorf("changed %v: %v", changed, err)
	}
}
