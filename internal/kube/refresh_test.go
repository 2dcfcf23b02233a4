package kube_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/regkeeper/regkeeper/internal/kube"
)

// TestMirrorRefresh: a look shows what the watch has not told, and what that
// tells later is told all the same.
func TestMirrorRefresh(t *testing.T) {
	t.Parallel()
	s := newServer()
	for _, namespace := range []string{"changed", "deleted", "anew", "same"} {
		s.put(key(namespace, "pull"), "old")
	}
	var mu sync.Mutex
	told := map[string]bool{}
	m := newMirror(s, kube.Selection{Name: "pull"})
	t.Cleanup(run(t, m, func(before, after *kube.Object[string]) {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case after != nil:
			told[after.Namespace+" "+after.Value] = true
		case before != nil:
			told[before.Namespace+" gone"] = true
		}
	}))
	s.hold(true)
	s.put(key("changed", "pull"), "new")
	s.put(key("made", "pull"), "new")
	s.remove(key("deleted", "pull"))
	s.remove(key("anew", "pull"))
	s.put(key("anew", "pull"), "new")
	all := func() map[string]string {
		values := map[string]string{}
		for _, namespace := range []string{"changed", "deleted", "anew", "same", "made"} {
			got := get(t, m, key(namespace, "pull"))
			values[namespace] = got[strings.LastIndex(got, " ")+1:]
		}
		return values
	}
	if got := all(); got["changed"] != "old" {
		t.Fatalf("the watch is not held up: %v", got)
	}
	if err := m.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"changed": "new", "deleted": "", "anew": "new", "same": "old", "made": "new"}
	if diff := cmp.Diff(want, all()); diff != "" {
		t.Errorf("after a look (-want +got):\n%s", diff)
	}
	s.hold(false)
	eventually(t, "the watch", func() error {
		mu.Lock()
		defer mu.Unlock()
		for _, what := range []string{"changed new", "deleted gone", "anew new", "made new"} {
			if !told[what] {
				return fmt.Errorf("%s is not told: %v", what, told)
			}
		}
		return nil
	})
	if diff := cmp.Diff(want, all()); diff != "" {
		t.Errorf("after the watch has told (-want +got):\n%s", diff)
	}
}
