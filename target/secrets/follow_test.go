package secrets_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/internal/kube"
	"github.com/regkeeper/regkeeper/problem"
	"github.com/regkeeper/regkeeper/target/secrets"
)

// accounts has ServiceAccounts of these names follow.
func accounts(names ...string) func(*secrets.Config) {
	return func(c *secrets.Config) { c.ServiceAccounts = names }
}

func TestAccountsAreAttached(t *testing.T) {
	t.Parallel()
	objects := []runtime.Object{
		namespace("team-a"), namespace("team-b"), namespace("other"),
		account("team-a", "default", "theirs"), account("team-a", "builder"), account("team-b", "default", "one", name, "two"), account("other", "default"),
	}
	for what, c := range map[string]struct {
		names []string
		want  []string
	}{
		"none":       {nil, nil},
		"one":        {[]string{"default"}, []string{"attach serviceaccount team-a/default"}},
		"twice":      {[]string{"default", "default"}, []string{"attach serviceaccount team-a/default"}},
		"several":    {[]string{"default", "builder"}, []string{"attach serviceaccount team-a/default", "attach serviceaccount team-a/builder"}},
		"all":        {[]string{"*"}, []string{"attach serviceaccount team-a/builder", "attach serviceaccount team-a/default"}},
		"all and on": {[]string{"default", "*", "builder"}, []string{"attach serviceaccount team-a/builder", "attach serviceaccount team-a/default"}},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, accounts(c.names...), objects...)
			got, _ := w.behind(ids)
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("lags (-want +got):\n%s", diff)
			}
			w.follow(ids)
			if got, _ := w.behind(ids); got != nil {
				t.Errorf("left behind: %v", got)
			}
			if c.names != nil {
				if diff := cmp.Diff([]string{"theirs", name}, w.pullSecretsOf("team-a", "default")); diff != "" {
					t.Errorf("pull secrets (-want +got):\n%s", diff)
				}
			}
			if diff := cmp.Diff([]string{"one", name, "two"}, w.pullSecretsOf("team-b", "default")); diff != "" {
				t.Errorf("pull secrets (-want +got):\n%s", diff)
			}
			if got := w.pullSecretsOf("other", "default"); got != nil {
				t.Errorf("a ServiceAccount elsewhere names %v", got)
			}
		})
	}
}

// TestAccountConflicts: what others add between our look and our write is kept,
// and a ServiceAccount that never stands still is a failure.
func TestAccountConflicts(t *testing.T) {
	t.Parallel()
	for mode, watched := range map[string]bool{"unwatched": false, "watched": true} {
		for _, conflicts := range []int{0, 1, 4, 1000} {
			t.Run(fmt.Sprint(mode, "/", conflicts), func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, accounts("default"), namespace("team-a"), account("team-a", "default", "theirs"))
				if watched {
					w.watch()
				}
				left, want := conflicts, []string{"theirs"}
				w.api.PrependReactor("patch", "serviceaccounts", func(clienttesting.Action) (bool, runtime.Object, error) {
					if left > 0 {
						left--
						all := w.api.tracker
						now, err := all.Get(corev1.SchemeGroupVersion.WithResource("serviceaccounts"), "team-a", "default")
						must(t, err)
						a := now.(*corev1.ServiceAccount)
						want = append(want, fmt.Sprint("later-", left))
						a.ImagePullSecrets = append(a.ImagePullSecrets, corev1.LocalObjectReference{Name: want[len(want)-1]})
						must(t, all.Update(corev1.SchemeGroupVersion.WithResource("serviceaccounts"), a, "team-a"))
					}
					return false, nil, nil
				})
				_, lags := w.behind(ids)
				err := w.Follow(t.Context(), lags[0], ids)
				if conflicts < 5 {
					must(t, err)
					want = append(want, name)
				} else if problem.KindOf(err) != problem.Busy {
					t.Errorf("the error is %v", err)
				}
				if diff := cmp.Diff(want, w.pullSecretsOf("team-a", "default")); diff != "" {
					t.Errorf("pull secrets (-want +got):\n%s", diff)
				}
			})
		}
	}
}

func TestAccountGone(t *testing.T) {
	t.Parallel()
	w := newWorld(t, accounts("default"), namespace("team-a"), account("team-a", "default"))
	_, lags := w.behind(ids)
	must(t, w.api.CoreV1().ServiceAccounts("team-a").Delete(t.Context(), "default", metav1.DeleteOptions{}))
	if err := w.Follow(t.Context(), lags[0], ids); !errors.Is(err, credential.ErrGone) {
		t.Errorf("the error is %v", err)
	}
}

// TestOptOuts of ServiceAccounts and namespaces take away what was given.
func TestOptOuts(t *testing.T) {
	t.Parallel()
	for mode, watched := range map[string]bool{"unwatched": false, "watched": true} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, accounts("*"), namespace("team-a"), namespace("team-b"),
				account("team-a", "in", "theirs"), account("team-a", "out", "theirs"), account("team-b", "default", "theirs"))
			calls := make(chan string)
			if watched {
				calls = w.watch()
			}
			for _, place := range []credential.Place{"team-a", "team-b"} {
				w.deliver(place, logins{host: login("u", "p")})
			}
			w.follow(ids)
			out, err := w.api.CoreV1().ServiceAccounts("team-a").Get(t.Context(), "out", metav1.GetOptions{})
			must(t, err)
			out.Annotations = map[string]string{kube.Exclude: "true"}
			_, err = w.api.CoreV1().ServiceAccounts("team-a").Update(t.Context(), out, metav1.UpdateOptions{})
			must(t, err)
			w.api.tracker.optOut(t, "team-b")
			if watched {
				w.toldOf(calls, "team-a", "all")
			} else {
				_, err := w.Places(t.Context())
				must(t, err)
			}
			got, lags := w.behind(ids)
			if diff := cmp.Diff([]string{"remove secret team-b/" + name, "detach serviceaccount team-a/out"}, got); diff != "" {
				t.Errorf("lags (-want +got):\n%s", diff)
			}
			if !lags[0].Holds || lags[1].Holds {
				t.Errorf("what may hold a login: %v", lags)
			}
			w.follow(ids)
			for where, want := range map[string][]string{"team-a/in": {"theirs", name}, "team-a/out": {"theirs"}, "team-b/default": {"theirs"}} {
				namespace, account, _ := strings.Cut(where, "/")
				if diff := cmp.Diff(want, w.pullSecretsOf(namespace, account)); diff != "" {
					t.Errorf("pull secrets of %s (-want +got):\n%s", where, diff)
				}
			}
			if w.secret("team-a") == nil || w.secret("team-b") != nil {
				t.Error("the wrong Secret is gone")
			}
			if got, _ := w.behind(ids); got != nil {
				t.Errorf("left behind: %v", got)
			}
		})
	}
}

// optOut has a namespace opt out.
func (r *tracker) optOut(t testing.TB, name string) {
	t.Helper()
	must(t, r.Update(corev1.SchemeGroupVersion.WithResource("namespaces"),
		namespace(name, func(n *corev1.Namespace) { n.Annotations[kube.Exclude] = "true" }), ""))
}

// toldOf waits for calls in any order, and lets others be.
func (w *world) toldOf(calls <-chan string, want ...string) {
	w.t.Helper()
	for len(want) > 0 {
		var got string
		eventually(w.t, fmt.Sprint("told of ", want), func() bool {
			select {
			case got = <-calls:
				return true
			default:
				return false
			}
		})
		want = slices.DeleteFunc(want, func(one string) bool { return one == got })
	}
}

// TestRemoves only Secrets that are ours by their label, where the namespace
// stays, and only if it is still not chosen then.
func TestRemoves(t *testing.T) {
	t.Parallel()
	for what, c := range map[string]struct {
		namespace *corev1.Namespace
		secret    *corev1.Secret
		want      bool
	}{
		"ours":           {namespace("other"), applied(owned(pullSecret("other", host, login("u", "p")), instance)), true},
		"a copy of ours": {namespace("other"), owned(pullSecret("other", host, login("u", "p")), instance), false},
		"another's":      {namespace("other"), applied(owned(pullSecret("other", host, login("u", "p")), "another-one")), false},
		"nobody's":       {namespace("other"), applied(pullSecret("other", host, login("u", "p"))), false},
		"chosen":         {namespace("team-a"), applied(owned(pullSecret("team-a", host, login("u", "p")), instance)), false},
		"namespace gone": {namespace("elsewhere"), applied(owned(pullSecret("other", host, login("u", "p")), instance)), false},
		"namespace going": {namespace("other", func(n *corev1.Namespace) {
			now := metav1.Now()
			n.DeletionTimestamp, n.Finalizers = &now, []string{"x"}
		}), applied(owned(pullSecret("other", host, login("u", "p")), instance)), false},
	} {
		for mode, watched := range map[string]bool{"unwatched": false, "watched": true} {
			t.Run(what+"/"+mode, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, accounts("default"), c.namespace, c.secret)
				if watched {
					w.watch()
				}
				got, _ := w.behind(ids)
				if (got != nil) != c.want {
					t.Errorf("lags: %v", got)
				}
				w.follow(ids)
				if c.secret.Namespace == c.namespace.Name && c.namespace.DeletionTimestamp == nil {
					// Nor if it was planned when the Secret was another.
					must(t, w.Follow(t.Context(), credential.Lag{What: "secret " + c.secret.Namespace + "/" + name, Remedy: "remove"}, ids))
				}
				if gone := w.secret(c.secret.Namespace) == nil; gone != c.want {
					t.Errorf("gone: %v", gone)
				}
			})
		}
	}
	t.Run("chosen again", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, nil, namespace("team-a"))
		w.deliver("team-a", logins{host: login("u", "p")})
		w.api.tracker.optOut(t, "team-a")
		_, lags := w.behind(ids)
		must(t, w.api.tracker.Update(corev1.SchemeGroupVersion.WithResource("namespaces"), namespace("team-a"), ""))
		_, err := w.Places(t.Context())
		must(t, err, w.Follow(t.Context(), lags[0], ids))
		if w.secret("team-a") == nil {
			t.Error("the Secret of a namespace that is chosen is gone")
		}
	})
	t.Run("another's meanwhile", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, accounts("default"), namespace("other"), applied(owned(pullSecret("other", host, login("u", "p")), instance)), account("other", "default", name))
		_, lags := w.behind(ids)
		w.change("other", func(s *corev1.Secret) { s.Labels[kube.Owner] = "another-one" })
		if err := w.Follow(t.Context(), lags[0], ids); err == nil && w.secret("other") == nil {
			t.Error("another's Secret is gone")
		}
	})
}

// TestRemovalLeavesWhatIsNotOurs: of a Secret that others made, or that holds more
// than our logins, only our part goes.
func TestRemovalLeavesWhatIsNotOurs(t *testing.T) {
	t.Parallel()
	const second = "second.example"
	both := map[credential.Host]string{host: "id-1", second: "id-2"}
	theirs := func(change func(*corev1.Secret)) *corev1.Secret {
		s := pullSecret("team-a", "theirs.example", login("someone", "else"))
		change(s)
		return s
	}
	edit := func(text string) func(*corev1.Secret) {
		return func(s *corev1.Secret) { s.Data[corev1.DockerConfigJsonKey] = []byte(text) }
	}
	empty := func(s *corev1.Secret) { s.Data[corev1.DockerConfigJsonKey] = []byte(`{"auths":{}}`) }
	const ours = `"registry.example":{"auth":"dTpw"},"second.example":{"auth":"dTpw"}`
	for what, c := range map[string]struct {
		secret *corev1.Secret // before we come; nil for none
		adopt  bool
		edit   func(*corev1.Secret) // after we came; nil for none
		stays  bool
		keeps  string
	}{
		"ours alone":         {nil, false, nil, false, ""},
		"ours, unreadable":   {nil, false, edit(`{"auths":[]}`), false, ""},
		"adopted":            {theirs(func(s *corev1.Secret) { s.Annotations[kube.Adopt] = "true" }), false, nil, true, "theirs.example"},
		"adopted, empty":     {theirs(func(s *corev1.Secret) { s.Annotations[kube.Adopt] = "true"; empty(s) }), false, nil, true, "{"},
		"adopted by config":  {theirs(empty), true, nil, true, "{"},
		"of another":         {applied(owned(theirs(func(s *corev1.Secret) { s.Annotations[kube.Adopt] = "true"; empty(s) }), "another-one")), false, func(s *corev1.Secret) { delete(s.Annotations, kube.Adopt) }, true, "{"},
		"a copy of ours":     {owned(theirs(empty), instance), false, nil, true, "{"},
		"adopted, then wild": {theirs(empty), true, edit(`{"auths":[]}`), true, `{"auths":[]}`},
		"another entry":      {nil, false, edit(`{"auths":{` + ours + `,"theirs.example":{"auth":"eDp5"}}}`), true, `"theirs.example":{"auth":"eDp5"}`},
		"an empty entry":     {nil, false, edit(`{"auths":{` + ours + `,"theirs.example":{}}}`), true, `"theirs.example":{}`},
		"auths twice":        {nil, false, edit(`{"auths":{"theirs.example":{"auth":"eDp5"}},"auths":{` + ours + `}}`), true, `"theirs.example":{"auth":"eDp5"}`},
		"a setting":          {nil, false, edit(`{"auths":{` + ours + `},"credHelpers":{"x.example":"y"}}`), true, `"credHelpers":{"x.example":"y"}`},
		"other data":         {nil, false, func(s *corev1.Secret) { s.Data["theirs"] = []byte("x") }, true, "{"},
	} {
		for mode, watched := range map[string]bool{"unwatched": false, "watched": true} {
			t.Run(what+"/"+mode, func(t *testing.T) {
				t.Parallel()
				objects := []runtime.Object{namespace("team-a"), account("team-a", "default")}
				if c.secret != nil {
					objects = append(objects, c.secret)
				}
				w := newWorld(t, func(config *secrets.Config) { config.Adopt, config.ServiceAccounts = c.adopt, []string{"default"} }, objects...)
				if watched {
					w.watch()
				}
				seen := func(what string, check func() bool) {
					t.Helper()
					eventually(t, what, func() bool {
						_, err := w.Places(t.Context())
						return err == nil && check()
					})
				}
				// The second round is of one that was given back, and is ours again.
				for round := range 2 {
					for _, secret := range []string{"old", "new"} {
						w.deliver("team-a", logins{host: login("u", secret), second: login("u", secret)})
					}
					w.follow(both)
					uid := w.secret("team-a").UID
					if c.edit != nil {
						w.change("team-a", c.edit)
					}
					w.api.tracker.optOut(t, "team-a")
					seen("the namespace is left out", func() bool { got, _ := w.behind(both); return len(got) > 0 })
					got, lags := w.behind(both)
					if diff := cmp.Diff([]string{"remove secret team-a/" + name}, got); diff != "" {
						t.Fatalf("round %d: lags (-want +got):\n%s", round, diff)
					}
					must(t, w.Follow(t.Context(), lags[0], both))
					if got, _ := w.behind(both); got != nil {
						t.Errorf("round %d: left behind: %v", round, got)
					}
					after := w.secret("team-a")
					if (after != nil) != c.stays {
						t.Fatalf("round %d: the Secret is %v", round, after)
					}
					attached := w.pullSecretsOf("team-a", "default") != nil
					if attached != c.stays {
						t.Errorf("round %d: the ServiceAccount names it: %v", round, attached)
					}
					if after == nil {
						return
					}
					text := string(after.Data[corev1.DockerConfigJsonKey])
					if after.UID != uid || !strings.Contains(text, c.keeps) || strings.Contains(text, string(host)) || strings.Contains(text, second) {
						t.Errorf("round %d: %s", round, text)
					}
					for _, label := range []string{kube.Owner, kube.ManagedBy} {
						if value, ok := after.Labels[label]; ok {
							t.Errorf("round %d: label %s is %s", round, label, value)
						}
					}
					must(t, w.api.tracker.Update(corev1.SchemeGroupVersion.WithResource("namespaces"), namespace("team-a"), ""))
					seen("the namespace is chosen", func() bool { places, _ := w.Places(t.Context()); return len(places) == 1 })
				}
			})
		}
	}
}

// TestRemovalSeesWhatComesBetween our look and our write.
func TestRemovalSeesWhatComesBetween(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil, namespace("team-a"))
	w.deliver("team-a", logins{host: login("u", "p")})
	w.api.tracker.optOut(t, "team-a")
	_, lags := w.behind(ids)
	_, err := w.Places(t.Context())
	must(t, err)
	w.change("team-a", func(s *corev1.Secret) {
		s.Data[corev1.DockerConfigJsonKey] = []byte(`{"auths":{"registry.example":{"auth":"dTpw"},"theirs.example":{"auth":"eDp5"}}}`)
	})
	must(t, w.Follow(t.Context(), lags[0], ids))
	s := w.secret("team-a")
	if s == nil {
		t.Fatal("what another had added is gone")
	}
	if text := string(s.Data[corev1.DockerConfigJsonKey]); text != `{"auths":{"theirs.example":{"auth":"eDp5"}}}` {
		t.Errorf("it holds %s", text)
	}
}

// TestRemovalWaitsForLogins: without any, nothing tells our entries from others.
func TestRemovalWaitsForLogins(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil, namespace("team-a"))
	w.deliver("team-a", logins{host: login("u", "p")})
	w.api.tracker.optOut(t, "team-a")
	_, lags := w.behind(nil)
	before := w.secret("team-a")
	if err := w.Follow(t.Context(), lags[0], nil); !errors.Is(err, credential.ErrNotYet) {
		t.Errorf("the error is %v", err)
	}
	if diff := cmp.Diff(before, w.secret("team-a")); diff != "" {
		t.Errorf("it was changed (-before +after):\n%s", diff)
	}
}

// TestBehindTellsWhatItFound before a list failed.
func TestBehindTellsWhatItFound(t *testing.T) {
	t.Parallel()
	for resource, want := range map[string][]string{
		"serviceaccounts": {"remove secret other/" + name},
		"statefulsets":    {"remove secret other/" + name, "attach serviceaccount team-a/default", "restart deployment team-a/app …"},
		"pods":            {"remove secret other/" + name, "attach serviceaccount team-a/default", "restart deployment team-a/app"},
	} {
		t.Run(resource, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, func(c *secrets.Config) {
				c.Evict, c.ServiceAccounts = true, []string{"default"}
				restarting(1, "deployment/*", "statefulset/*")(c)
			}, namespace("team-a"), namespace("other"), account("team-a", "default"), deployment("team-a", "app"),
				applied(owned(pullSecret("other", host, login("u", "p")), instance)))
			must(t, w.Follow(t.Context(), credential.Lag{What: "deployment team-a/app", Remedy: "note"}, ids))
			w.api.PrependReactor("list", resource, func(clienttesting.Action) (bool, runtime.Object, error) {
				return true, nil, apierrors.NewForbidden(corev1.Resource(resource), "", errors.New("no"))
			})
			lags, err := w.Behind(t.Context(), next)
			if problem.KindOf(err) != problem.Denied || !strings.Contains(err.Error(), resource) {
				t.Errorf("the error is %v", err)
			}
			var got []string
			for _, lag := range lags {
				text := lag.Remedy + " " + lag.What
				if lag.Waits != "" {
					text += " …"
				}
				got = append(got, text)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("lags (-want +got):\n%s", diff)
			}
		})
	}
}

// TestLabelsAreHealed: by them alone is a Secret removed one day.
func TestLabelsAreHealed(t *testing.T) {
	t.Parallel()
	for _, label := range []string{kube.Owner, kube.ManagedBy} {
		t.Run(label, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, nil, namespace("team-a"))
			calls := w.watch()
			w.deliver("team-a", logins{host: login("u", "p")})
			before := w.secret("team-a")
			w.change("team-a", func(s *corev1.Secret) { delete(s.Labels, label) })
			w.toldOf(calls, "team-a")
			eventually(t, "the lag is known", func() bool { got, _ := w.behind(ids, "team-a"); return got != nil })
			w.follow(ids, "team-a")
			after := w.secret("team-a")
			if diff := cmp.Diff(before.Labels, after.Labels); diff != "" || after.UID != before.UID {
				t.Errorf("labels (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(before.Data, after.Data); diff != "" {
				t.Error("the data is other")
			}
			if got, _ := w.behind(ids); got != nil {
				t.Errorf("left behind: %v", got)
			}
		})
	}
}

func deployment(namespace, name string, changes ...func(*appsv1.Deployment)) *appsv1.Deployment {
	one := int32(1)
	d := &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Generation: 1, Annotations: map[string]string{}},
		Spec:       appsv1.DeploymentSpec{Replicas: &one},
	}
	ended(d)
	for _, change := range changes {
		change(d)
	}
	return d
}

// ended has a deployment's pods be as its template says, and ready.
func ended(d *appsv1.Deployment) {
	d.Status = appsv1.DeploymentStatus{ObservedGeneration: d.Generation, Replicas: 1, UpdatedReplicas: 1, ReadyReplicas: 1, AvailableReplicas: 1}
}

// end ends the rolling of a deployment, as its controller does.
func (w *world) end(namespace, name string) {
	w.t.Helper()
	d := w.deployment(namespace, name)
	ended(d)
	must(w.t, w.api.tracker.Update(appsv1.SchemeGroupVersion.WithResource("deployments"), d, namespace))
}

func (w *world) deployment(namespace, name string) *appsv1.Deployment {
	w.t.Helper()
	d, err := w.api.AppsV1().Deployments(namespace).Get(context.Background(), name, metav1.GetOptions{})
	must(w.t, err)
	return d
}

const restartedAt = "kubectl.kubernetes.io/restartedAt"

func restarting(atOnce int, what ...string) func(*secrets.Config) {
	return func(c *secrets.Config) {
		c.RestartAtOnce = atOnce
		for _, one := range what {
			kind, name, _ := strings.Cut(one, "/")
			c.Restart = append(c.Restart, secrets.Workload{Kind: kind, Name: name})
		}
	}
}

var (
	next  = map[credential.Host]string{host: "id-2"}
	wider = map[credential.Host]string{host: "id-1", "new.example": "id-9"}
)

// TestRestartsAreBounded: never more are rolling than may, be it that all are
// told to at the same time, and by lines of the configuration of one each.
func TestRestartsAreBounded(t *testing.T) {
	t.Parallel()
	const workloads = 7
	var lines []string
	objects := []runtime.Object{}
	for i := range workloads {
		ns := fmt.Sprint("team-", i)
		objects = append(objects, namespace(ns), deployment(ns, fmt.Sprint("app-", i)), deployment(ns, "unrelated"))
		lines = append(lines, fmt.Sprint("deployment/app-", i))
	}
	all := []string{"deployment/*"}
	for what, c := range map[string]struct {
		lines   []string
		watched bool
	}{"all, unwatched": {all, false}, "all, watched": {all, true}, "lines, unwatched": {lines, false}, "lines, watched": {lines, true}} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, restarting(2, append(c.lines, c.lines...)...), objects...)
			calls := make(chan string)
			if c.watched {
				calls = w.watch()
			}
			// At first sight nothing is restarted.
			w.follow(ids)
			if got, _ := w.behind(ids); got != nil {
				t.Fatalf("left behind: %v", got)
			}
			for i := range workloads {
				if _, restarted := w.deployment(fmt.Sprint("team-", i), fmt.Sprint("app-", i)).Spec.Template.Annotations[restartedAt]; restarted {
					t.Fatal("restarted at first sight")
				}
			}
			restarted := map[string]bool{}
			rounds := 0
			for ; ; rounds++ {
				got, lags := w.behind(next)
				var may []credential.Lag
				for _, lag := range lags {
					if lag.Remedy != "restart" {
						t.Fatalf("lags: %v", got)
					}
					if lag.Waits == "" {
						may = append(may, lag)
					}
				}
				if len(may) == 0 {
					break
				}
				if len(may) > 2 {
					t.Fatalf("%d may restart: %v", len(may), got)
				}
				// All at once, whatever was said.
				var following sync.WaitGroup
				for _, lag := range lags {
					following.Go(func() {
						if err := w.Follow(t.Context(), lag, next); err != nil && (!errors.Is(err, credential.ErrNotYet) || problem.HintOf(err) == "") {
							t.Error(err)
						}
					})
				}
				following.Wait()
				rolling := 0
				list, err := w.api.AppsV1().Deployments("").List(t.Context(), metav1.ListOptions{})
				must(t, err)
				for _, d := range list.Items {
					if d.Status.ObservedGeneration < d.Generation {
						rolling++
						restarted[d.Namespace+"/"+d.Name] = true
					}
				}
				if rolling != 2 && len(lags) >= 2 {
					t.Fatalf("%d are rolling", rolling)
				}
				if got, lags := w.behind(next); slices.ContainsFunc(lags, func(l credential.Lag) bool { return l.Waits == "" }) {
					t.Fatalf("with %d rolling: %v", rolling, got)
				}
				for _, d := range list.Items {
					if d.Status.ObservedGeneration < d.Generation {
						w.end(d.Namespace, d.Name)
						if c.watched {
							w.toldOf(calls, "all") // the others may go on
						}
					}
				}
			}
			want := workloads
			if len(c.lines) == 1 {
				want *= 2
			}
			if len(restarted) != want || rounds != (want+1)/2 {
				t.Errorf("%d restarted in %d rounds, want %d", len(restarted), rounds, want)
			}
			if got, _ := w.behind(next); got != nil {
				t.Errorf("left behind: %v", got)
			}
		})
	}
}

// TestRestartsOnlyAfterARotation of a login that the workload knew.
func TestRestartsOnlyAfterARotation(t *testing.T) {
	t.Parallel()
	w := newWorld(t, restarting(5, "deployment/*"),
		namespace("team-a"), namespace("other"), deployment("other", "app"),
		deployment("team-a", "app"), deployment("team-a", "out", func(d *appsv1.Deployment) { d.Annotations[kube.Exclude] = "true" }),
		deployment("team-a", "paused", func(d *appsv1.Deployment) { d.Spec.Paused = true }))
	step := func(what string, logins map[credential.Host]string, want ...string) {
		t.Helper()
		got, lags := w.behind(logins)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: lags (-want +got):\n%s", what, diff)
		}
		for _, lag := range lags {
			if lag.After != "team-a" || lag.Holds {
				t.Errorf("%s: lag %+v", what, lag)
			}
		}
		w.follow(logins)
		w.end("team-a", "app")
	}
	step("first sight", ids, "note deployment team-a/app", "note deployment team-a/paused")
	step("nothing new", ids)
	step("another registry", wider, "note deployment team-a/app", "note deployment team-a/paused")
	step("one registry less", ids, "note deployment team-a/app", "note deployment team-a/paused")
	step("a rotation", next, "restart deployment team-a/app", "restart deployment team-a/paused …")
	step("after it", next, "restart deployment team-a/paused …")
	d := w.deployment("team-a", "app")
	if d.Generation != 2 || d.Spec.Template.Annotations[restartedAt] == "" {
		t.Errorf("the deployment is %v", d)
	}
	if diff := cmp.Diff([]string{"Normal RolloutRestartTriggered Deployment team-a/app"}, w.events()); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

// TestKindsOfWorkloads that are restarted, and when they count as rolling.
func TestKindsOfWorkloads(t *testing.T) {
	t.Parallel()
	two, one := int32(2), int32(1)
	meta := metav1.ObjectMeta{Namespace: "team-a", Name: "app", Generation: 1}
	set := func(change func(*appsv1.StatefulSet)) runtime.Object {
		s := &appsv1.StatefulSet{ObjectMeta: meta, Spec: appsv1.StatefulSetSpec{Replicas: &two},
			Status: appsv1.StatefulSetStatus{ObservedGeneration: 1, Replicas: 2, UpdatedReplicas: 2, ReadyReplicas: 2}}
		change(s)
		return s
	}
	daemons := func(change func(*appsv1.DaemonSet)) runtime.Object {
		d := &appsv1.DaemonSet{ObjectMeta: meta,
			Status: appsv1.DaemonSetStatus{ObservedGeneration: 1, DesiredNumberScheduled: 2, UpdatedNumberScheduled: 2, NumberAvailable: 2}}
		change(d)
		return d
	}
	deploy := func(change func(*appsv1.Deployment)) runtime.Object { return deployment("team-a", "app", change) }
	for what, c := range map[string]struct {
		kind    string
		object  runtime.Object
		rolling bool
	}{
		"deployment":             {"deployment", deploy(func(*appsv1.Deployment) {}), false},
		"deployment, unseen":     {"deployment", deploy(func(d *appsv1.Deployment) { d.Generation++ }), true},
		"deployment, old pods":   {"deployment", deploy(func(d *appsv1.Deployment) { d.Status.Replicas++ }), true},
		"deployment, not ready":  {"deployment", deploy(func(d *appsv1.Deployment) { d.Status.AvailableReplicas-- }), true},
		"deployment, paused":     {"deployment", deploy(func(d *appsv1.Deployment) { d.Spec.Paused = true; d.Status.UpdatedReplicas-- }), false},
		"statefulset":            {"statefulset", set(func(*appsv1.StatefulSet) {}), false},
		"statefulset, half":      {"statefulset", set(func(s *appsv1.StatefulSet) { s.Status.UpdatedReplicas-- }), true},
		"statefulset, not ready": {"statefulset", set(func(s *appsv1.StatefulSet) { s.Status.ReadyReplicas-- }), true},
		"statefulset, partition": {"statefulset", set(func(s *appsv1.StatefulSet) {
			s.Status.UpdatedReplicas--
			s.Spec.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateStatefulSetStrategy{Partition: &one}
		}), false},
		"statefulset, on deletion": {"statefulset", set(func(s *appsv1.StatefulSet) {
			s.Status.UpdatedReplicas = 0
			s.Spec.UpdateStrategy.Type = appsv1.OnDeleteStatefulSetStrategyType
		}), false},
		"daemonset":            {"daemonset", daemons(func(*appsv1.DaemonSet) {}), false},
		"daemonset, half":      {"daemonset", daemons(func(d *appsv1.DaemonSet) { d.Status.UpdatedNumberScheduled-- }), true},
		"daemonset, not ready": {"daemonset", daemons(func(d *appsv1.DaemonSet) { d.Status.NumberAvailable-- }), true},
		"daemonset, on deletion": {"daemonset", daemons(func(d *appsv1.DaemonSet) {
			d.Status.UpdatedNumberScheduled = 0
			d.Spec.UpdateStrategy.Type = appsv1.OnDeleteDaemonSetStrategyType
		}), false},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			// A second workload, of the same kind, shows whether the first counts.
			other := c.object.DeepCopyObject()
			switch o := other.(type) {
			case *appsv1.Deployment:
				*o = *deployment("team-a", "late")
			case *appsv1.StatefulSet:
				*o = *set(func(s *appsv1.StatefulSet) { s.Name = "late" }).(*appsv1.StatefulSet)
			case *appsv1.DaemonSet:
				*o = *daemons(func(d *appsv1.DaemonSet) { d.Name = "late" }).(*appsv1.DaemonSet)
			}
			w := newWorld(t, restarting(1, c.kind+"/*"), namespace("team-a"), c.object, other)
			w.follow(ids)
			_, lags := w.behind(next)
			if len(lags) != 2 {
				t.Fatalf("lags: %v", lags)
			}
			// The first is as if it had been restarted for the new login by now.
			must(t, w.Follow(t.Context(), credential.Lag{What: c.kind + " team-a/app", Remedy: "note"}, next))
			_, lags = w.behind(next)
			if rolling := len(lags) == 1 && lags[0].Waits != ""; rolling != c.rolling {
				t.Errorf("rolling: %v, by %+v", rolling, lags)
			}
			if !c.rolling {
				must(t, w.Follow(t.Context(), lags[0], next))
				if got, _ := w.behind(next); got != nil {
					t.Errorf("left behind: %v", got)
				}
			}
		})
	}
}

// stuckPod waits for an image.
func stuckPod(name, account, image string, changes ...func(*corev1.Pod)) *corev1.Pod {
	yes := true
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "team-a", Name: name, Annotations: map[string]string{},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "rs", UID: "rs", Controller: &yes}},
		},
		Spec: corev1.PodSpec{
			ServiceAccountName: account,
			InitContainers:     []corev1.Container{{Name: "init", Image: "docker.io/library/init"}},
			Containers:         []corev1.Container{{Name: "main", Image: image}},
		},
	}
	wait(p, "main", "ImagePullBackOff")
	for _, change := range changes {
		change(p)
	}
	return p
}

// wait has a container of a pod wait for a reason.
func wait(p *corev1.Pod, container, reason string) {
	status := corev1.ContainerStatus{Name: container, State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason}}}
	if container == "init" {
		p.Status.InitContainerStatuses = []corev1.ContainerStatus{status}
		return
	}
	p.Status.ContainerStatuses = []corev1.ContainerStatus{status}
}

// TestEvicts only pods that will never heal by themselves.
func TestEvicts(t *testing.T) {
	t.Parallel()
	ours := string(host) + "/team/app:1"
	for what, c := range map[string]struct {
		pod  *corev1.Pod
		want string
	}{
		"stuck":       {stuckPod("p", "default", ours), "evict pod team-a/p"},
		"after a try": {stuckPod("p", "default", ours, func(p *corev1.Pod) { wait(p, "main", "ErrImagePull") }), "evict pod team-a/p"},
		"by digest":   {stuckPod("p", "default", ours+"@sha256:"+strings.Repeat("a", 64)), "evict pod team-a/p"},
		"init container": {stuckPod("p", "default", "docker.io/x", func(p *corev1.Pod) {
			p.Spec.InitContainers[0].Image = ours
			wait(p, "main", "PodInitializing")
			wait(p, "init", "ImagePullBackOff")
		}), "evict pod team-a/p"},
		"another's image too":  {stuckPod("p", "default", ours, func(p *corev1.Pod) { wait(p, "init", "ImagePullBackOff") }), "evict pod team-a/p"},
		"no controller":        {stuckPod("p", "default", ours, func(p *corev1.Pod) { p.OwnerReferences = nil }), "evict pod team-a/p …"},
		"names the Secret":     {stuckPod("p", "default", ours, func(p *corev1.Pod) { p.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: name}} }), ""},
		"other registry":       {stuckPod("p", "default", "other.example/app"), ""},
		"Docker Hub":           {stuckPod("p", "default", "busybox"), ""},
		"no image name":        {stuckPod("p", "default", "::"), ""},
		"crashes":              {stuckPod("p", "default", ours, func(p *corev1.Pod) { wait(p, "main", "CrashLoopBackOff") }), ""},
		"runs":                 {stuckPod("p", "default", ours, func(p *corev1.Pod) { p.Status = corev1.PodStatus{} }), ""},
		"opted out":            {stuckPod("p", "default", ours, func(p *corev1.Pod) { p.Annotations[kube.Exclude] = "true" }), ""},
		"account not attached": {stuckPod("p", "loose", ours), ""},
		"account opted out":    {stuckPod("p", "out", ours), ""},
		"other namespace":      {stuckPod("p", "default", ours, func(p *corev1.Pod) { p.Namespace = "other" }), ""},
		"going":                {stuckPod("p", "default", ours, func(p *corev1.Pod) { now := metav1.Now(); p.DeletionTimestamp, p.Finalizers = &now, []string{"x"} }), ""},
	} {
		for mode, watched := range map[string]bool{"unwatched": false, "watched": true} {
			t.Run(what+"/"+mode, func(t *testing.T) {
				t.Parallel()
				out := account("team-a", "out")
				out.Annotations[kube.Exclude] = "true"
				w := newWorld(t, func(c *secrets.Config) { c.Evict, c.ServiceAccounts = true, []string{"default", "out"} },
					namespace("team-a"), namespace("other"), account("team-a", "default", name), account("team-a", "loose"), out, account("other", "default", name), c.pod)
				if watched {
					w.watch()
				}
				got, lags := w.behind(ids)
				if strings.Join(got, ", ") != c.want {
					t.Fatalf("lags: %v, want %s", got, c.want)
				}
				w.follow(ids)
				var evicted []*policyv1.Eviction
				for _, action := range w.api.Actions() {
					if create, ok := action.(clienttesting.CreateAction); ok && action.GetSubresource() == "eviction" {
						evicted = append(evicted, create.GetObject().(*policyv1.Eviction))
					}
				}
				if may := c.want != "" && lags[0].Waits == ""; len(evicted) != map[bool]int{true: 1}[may] {
					t.Errorf("%d evicted", len(evicted))
				}
				if len(evicted) == 0 {
					return
				}
				if uid := evicted[0].DeleteOptions.Preconditions.UID; uid == nil || *uid == "" {
					t.Error("a pod made again under the name could be evicted")
				}
				if got, _ := w.behind(ids); watched && got != nil {
					t.Errorf("evicted, and again: %v", got)
				}
			})
		}
	}
}

func TestEvictionForbidden(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *secrets.Config) { c.Evict, c.ServiceAccounts = true, []string{"default"} },
		namespace("team-a"), account("team-a", "default", name), stuckPod("p", "default", string(host)+"/app"))
	w.api.PrependReactor("create", "pods", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewTooManyRequests("the budget is used up", 0)
	})
	_, lags := w.behind(ids)
	err := w.Follow(t.Context(), lags[0], ids)
	if problem.KindOf(err) != problem.Busy || !strings.Contains(problem.HintOf(err), "PodDisruptionBudget") {
		t.Errorf("the error is %v", err)
	}
}

// TestPodsThatCameBeforeTheAttachment are looked at again after it.
func TestPodsThatCameBeforeTheAttachment(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *secrets.Config) { c.Evict, c.ServiceAccounts = true, []string{"default"} },
		namespace("team-a"), account("team-a", "default"), stuckPod("p", "default", string(host)+"/app"))
	calls := w.watch()
	w.follow(ids, "team-a")
	w.toldOf(calls, "team-a")
	if got, _ := w.behind(ids, "team-a"); !slices.Equal(got, []string{"evict pod team-a/p"}) {
		t.Errorf("lags: %v", got)
	}
}

// TestBehindOfPlaces finds there what a look at everything finds there.
func TestBehindOfPlaces(t *testing.T) {
	t.Parallel()
	change := func(c *secrets.Config) {
		c.Evict, c.ServiceAccounts = true, []string{"default"}
		restarting(1, "deployment/*", "statefulset/app")(c)
	}
	objects := []runtime.Object{}
	for _, ns := range []string{"team-a", "team-b", "other"} {
		pod := stuckPod("p", "ready", string(host)+"/app")
		pod.Namespace = ns
		objects = append(objects, namespace(ns), account(ns, "default"), account(ns, "ready", name), pod, deployment(ns, "app"),
			applied(owned(pullSecret(ns, host, login("u", "p")), instance)))
	}
	for mode, watched := range map[string]bool{"unwatched": false, "watched": true} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, change, objects...)
			if watched {
				w.watch()
			}
			all, _ := w.behind(ids)
			var parts []string
			for _, ns := range []credential.Place{"team-a", "team-b", "other", "none"} {
				part, lags := w.behind(ids, ns)
				for _, lag := range lags {
					if _, what, _ := strings.Cut(lag.What, " "); !strings.HasPrefix(what, string(ns)+"/") {
						t.Errorf("of %s: %v", ns, lag)
					}
				}
				parts = append(parts, part...)
			}
			slices.Sort(all)
			slices.Sort(parts)
			if diff := cmp.Diff(all, parts); diff != "" {
				t.Errorf("lags (-all +parts):\n%s", diff)
			}
		})
	}
}

func TestUnknownRemedy(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil, namespace("team-a"))
	if err := w.Follow(t.Context(), credential.Lag{What: "x team-a/y", Remedy: "pray"}, ids); err == nil {
		t.Error("no error")
	}
}

// TestFollowOfWhatIsGone: none of it is a failure.
func TestFollowOfWhatIsGone(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *secrets.Config) {
		c.Evict, c.ServiceAccounts = true, []string{"default"}
		restarting(1, "deployment/*", "statefulset/*", "daemonset/*")(c)
	}, namespace("team-a"))
	for _, what := range []string{"attach serviceaccount", "detach serviceaccount", "remove secret", "note deployment", "restart statefulset", "restart daemonset", "evict pod"} {
		remedy, kind, _ := strings.Cut(what, " ")
		for _, ns := range []string{"team-a", "gone"} {
			err := w.Follow(t.Context(), credential.Lag{What: kind + " " + ns + "/x", Remedy: remedy}, ids)
			if err != nil && !errors.Is(err, credential.ErrGone) {
				t.Errorf("%s in %s: %v", what, ns, err)
			}
		}
	}
}

// TestFollowLooksAgain whether the namespace is chosen still.
func TestFollowLooksAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *secrets.Config) {
		c.Evict, c.ServiceAccounts = true, []string{"*"}
		restarting(1, "deployment/*")(c)
	}, namespace("team-a"), account("team-a", "default"), account("team-a", "ready", name), deployment("team-a", "app"),
		stuckPod("p", "ready", string(host)+"/app"))
	got, lags := w.behind(ids)
	if diff := cmp.Diff([]string{"attach serviceaccount team-a/default", "note deployment team-a/app", "evict pod team-a/p"}, got); diff != "" {
		t.Errorf("lags (-want +got):\n%s", diff)
	}
	w.api.tracker.optOut(t, "team-a")
	_, err := w.Places(t.Context())
	must(t, err)
	w.api.ClearActions()
	for _, lag := range lags {
		if err := w.Follow(t.Context(), lag, ids); !errors.Is(err, credential.ErrGone) {
			t.Errorf("%s: %v", lag.What, err)
		}
	}
	for _, action := range w.api.Actions() {
		t.Errorf("%s %s", action.GetVerb(), action.GetResource().Resource)
	}
}
