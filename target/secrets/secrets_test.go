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
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/dockerconfig"
	"github.com/regkeeper/regkeeper/internal/kube"
	"github.com/regkeeper/regkeeper/problem"
	"github.com/regkeeper/regkeeper/target/secrets"
	"github.com/regkeeper/regkeeper/target/targettest"
)

// TestConformance holds the target to its port, as `sync` uses it and as `up`
// does. The program that writes beside it is one that gave it the Secret.
func TestConformance(t *testing.T) {
	t.Parallel()
	for what, watched := range map[string]bool{"unwatched": false, "watched": true} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			var w *world
			targettest.Run(t, targettest.Harness{
				New: func(t testing.TB) credential.Target {
					w = newWorld(t, func(c *secrets.Config) { c.Adopt = true }, namespace("team-a"), namespace("team-b"), namespace("team-c"), namespace("other"))
					if watched {
						w.watch()
						w.begun()
					}
					return w
				},
				Put: func(t testing.TB, place credential.Place, host credential.Host, l credential.Login) {
					if s := w.secret(string(place)); s == nil {
						_, err := w.api.CoreV1().Secrets(string(place)).Create(t.Context(), pullSecret(string(place), host, l), metav1.CreateOptions{})
						must(t, err)
					} else {
						w.change(string(place), func(s *corev1.Secret) {
							doc, err := dockerconfig.Parse(s.Data[corev1.DockerConfigJsonKey])
							must(t, err)
							doc.Set(host, l)
							s.Data[corev1.DockerConfigJsonKey] = doc.Bytes()
						})
					}
					if !watched {
						_, err := w.Places(t.Context())
						must(t, err)
					}
					eventually(t, "the watch tells", func() bool {
						got, err := w.Held(t.Context(), place, []credential.Host{host})
						return err == nil && got[host].Equal(l)
					})
				},
				Raw: func(_ testing.TB, place credential.Place) []byte {
					return w.secret(string(place)).Data[corev1.DockerConfigJsonKey]
				},
				Whole: func(content []byte) error {
					_, err := dockerconfig.Parse(content)
					return err
				},
				Remove: func(t testing.TB, place credential.Place) {
					must(t, w.api.CoreV1().Secrets(string(place)).Delete(t.Context(), name, metav1.DeleteOptions{}),
						w.api.CoreV1().Namespaces().Delete(t.Context(), string(place), metav1.DeleteOptions{}))
					eventually(t, "the place to go", func() bool {
						places, err := w.Places(t.Context())
						must(t, err)
						held, err := w.Held(t.Context(), place, []credential.Host{"a.registry.example"})
						return !slices.Contains(places, place) && err == nil && len(held) == 0
					})
				},
			})
		})
	}
}

// TestForeignSecrets are left as they are, and someone is told, unless they were
// given away on purpose.
func TestForeignSecrets(t *testing.T) {
	t.Parallel()
	mine, theirs := login("u", "p"), login("someone", "else")
	pull := func(change func(*corev1.Secret)) *corev1.Secret {
		s := pullSecret("team-a", host, theirs)
		change(s)
		return s
	}
	opaque := func(s *corev1.Secret) {
		s.Type, s.Data = corev1.SecretTypeOpaque, map[string][]byte{"token": []byte("theirs")}
	}
	adopt := func(s *corev1.Secret) { s.Annotations[kube.Adopt] = "true" }
	for what, c := range map[string]struct {
		secret *corev1.Secret
		adopt  bool
		says   string // empty: it is taken over
		event  string
	}{
		"same type":                    {pull(func(*corev1.Secret) {}), false, "is not regkeeper's", kube.NotDelivered},
		"same type, annotated":         {pull(adopt), false, "", kube.Adopted},
		"same type, annotated no":      {pull(func(s *corev1.Secret) { s.Annotations[kube.Adopt] = "false" }), false, "is not regkeeper's", kube.NotDelivered},
		"same type, adopted by config": {pull(func(*corev1.Secret) {}), true, "", kube.Adopted},
		"other type":                   {pull(opaque), false, "is of type Opaque", kube.NotDelivered},
		"other type, annotated":        {pull(func(s *corev1.Secret) { opaque(s); adopt(s) }), false, "is of type Opaque", kube.NotDelivered},
		"other type, by config":        {pull(opaque), true, "is of type Opaque", kube.NotDelivered},
		"another's":                    {pull(func(s *corev1.Secret) { owned(s, "another-one") }), false, "another regkeeper (another-one)", kube.NotDelivered},
		"another's, annotated":         {pull(func(s *corev1.Secret) { owned(s, "another-one"); adopt(s) }), false, "", kube.Adopted},
		"ours":                         {pull(func(s *corev1.Secret) { owned(s, instance) }), false, "", kube.Updated},
	} {
		for mode, watched := range map[string]bool{"unwatched": false, "watched": true} {
			t.Run(what+"/"+mode, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, func(config *secrets.Config) { config.Adopt = c.adopt }, namespace("team-a"), c.secret)
				before := w.secret("team-a")
				if watched {
					w.watch()
				}
				err := w.Deliver(t.Context(), "team-a", logins{host: mine})
				after := w.secret("team-a")
				if diff := cmp.Diff([]string{map[bool]string{true: "Normal", false: "Warning"}[c.says == ""] + " " + c.event + " Secret team-a/" + name}, w.events()); diff != "" {
					t.Errorf("events (-want +got):\n%s", diff)
				}
				if c.says == "" {
					held, herr := w.Held(t.Context(), "team-a", []credential.Host{host})
					if must(t, err, herr); !held[host].Equal(mine) || after.UID != before.UID || after.Labels[kube.Owner] != instance {
						t.Errorf("it was not taken over in place: %v", after)
					}
					return
				}
				if problem.KindOf(err) != problem.Busy || !strings.Contains(err.Error(), c.says) || problem.HintOf(err) == "" {
					t.Errorf("the error is %v, hint %q", err, problem.HintOf(err))
				}
				if diff := cmp.Diff(before, after); diff != "" {
					t.Errorf("it was changed (-before +after):\n%s", diff)
				}
				if text := err.Error() + problem.HintOf(err); strings.Contains(text, "else") {
					t.Errorf("a secret is told: %s", text)
				}
			})
		}
	}
}

// TestForeignSecretAtTheLastMoment is one that the watch has not told of: the
// cluster itself refuses to have it overwritten.
func TestForeignSecretAtTheLastMoment(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil, namespace("team-a"))
	_, err := w.Places(t.Context())
	must(t, err)
	theirs := pullSecret("team-a", host, login("someone", "else"))
	_, err = w.api.CoreV1().Secrets("team-a").Create(t.Context(), theirs, metav1.CreateOptions{FieldManager: "kubectl-create"})
	must(t, err)
	before := w.secret("team-a")
	err = w.Deliver(t.Context(), "team-a", logins{host: login("u", "p")})
	if problem.KindOf(err) != problem.Busy || !strings.Contains(err.Error(), "is not regkeeper's") {
		t.Errorf("the error is %v", err)
	}
	if diff := cmp.Diff(before, w.secret("team-a")); diff != "" {
		t.Errorf("it was changed (-before +after):\n%s", diff)
	}
}

func TestNamespaces(t *testing.T) {
	t.Parallel()
	all := []runtime.Object{
		namespace("team-a"), namespace("team-b", func(n *corev1.Namespace) { n.Labels["pull"] = "yes" }),
		namespace("other", func(n *corev1.Namespace) { n.Labels["pull"] = "yes" }), namespace("default"),
		namespace("team-out", func(n *corev1.Namespace) { n.Annotations[kube.Exclude] = "true"; n.Labels["pull"] = "yes" }),
		namespace("team-in", func(n *corev1.Namespace) { n.Annotations[kube.Exclude] = "false" }),
		namespace("team-gone", func(n *corev1.Namespace) {
			now := metav1.Now()
			n.DeletionTimestamp, n.Finalizers, n.Labels["pull"] = &now, []string{"kubernetes"}, "yes"
		}),
	}
	selector, err := labels.Parse("pull=yes")
	must(t, err)
	for what, c := range map[string]struct {
		choice secrets.Namespaces
		want   []credential.Place
	}{
		"literal":         {secrets.Namespaces{Names: []string{"team-a", "default", "none"}}, []credential.Place{"default", "team-a"}},
		"literal twice":   {secrets.Namespaces{Names: []string{"team-a", "team-a"}}, []credential.Place{"team-a"}},
		"literal opt out": {secrets.Namespaces{Names: []string{"team-out", "team-gone"}}, nil},
		"glob":            {secrets.Namespaces{Names: []string{"team-*"}}, []credential.Place{"team-a", "team-b", "team-in"}},
		"globs":           {secrets.Namespaces{Names: []string{"team-?", "[d]efault"}}, []credential.Place{"default", "team-a", "team-b"}},
		"all":             {secrets.Namespaces{Names: []string{"*"}}, []credential.Place{"default", "other", "team-a", "team-b", "team-in"}},
		"label":           {secrets.Namespaces{Selector: selector}, []credential.Place{"other", "team-b"}},
		"either":          {secrets.Namespaces{Names: []string{"default"}, Selector: selector}, []credential.Place{"default", "other", "team-b"}},
		"none":            {secrets.Namespaces{}, nil},
	} {
		for mode, watched := range map[string]bool{"unwatched": false, "watched": true} {
			t.Run(what+"/"+mode, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, func(config *secrets.Config) { config.Namespaces = c.choice }, all...)
				if watched {
					w.watch()
				}
				got, err := w.Places(t.Context())
				must(t, err)
				if diff := cmp.Diff(c.want, got); diff != "" {
					t.Errorf("places (-want +got):\n%s", diff)
				}
				for _, place := range []credential.Place{"team-out", "team-gone", "nowhere"} {
					if err := w.Deliver(t.Context(), place, logins{host: login("u", "p")}); !errors.Is(err, credential.ErrGone) {
						t.Errorf("delivery to %s: %v", place, err)
					}
				}
				if got := w.writes("secrets"); len(got) > 0 {
					t.Errorf("writes: %v", got)
				}
			})
		}
	}
}

// TestMergeLosesNothing of what others added to a Secret, be it between our look
// and our write.
func TestMergeLosesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil, namespace("team-a"))
	w.deliver("team-a", logins{host: login("u", "p")})
	uid := w.secret("team-a").UID
	_, err := w.Places(t.Context())
	must(t, err)
	w.change("team-a", func(s *corev1.Secret) {
		s.Data[corev1.DockerConfigJsonKey] = []byte(`{"credsStore": "none", "auths": {"theirs.example": {"auth": "dTpw", "x": 1}, "registry.example": {}}}`)
		s.Annotations = map[string]string{"theirs": "kept"}
		s.Labels["theirs"] = "kept"
	})
	w.deliver("team-a", logins{host: login("u", "p2")})
	s := w.secret("team-a")
	text := string(s.Data[corev1.DockerConfigJsonKey])
	if s.UID != uid || s.Annotations["theirs"] != "kept" || s.Labels["theirs"] != "kept" ||
		!strings.Contains(text, `"credsStore": "none"`) || !strings.Contains(text, `"theirs.example": {"auth": "dTpw", "x": 1}`) {
		t.Errorf("the Secret is %v\n%s", s.ObjectMeta, text)
	}
	held, err := w.Held(t.Context(), "team-a", []credential.Host{host, "theirs.example"})
	if must(t, err); !held[host].Equal(login("u", "p2")) || !held["theirs.example"].Equal(login("u", "p")) {
		t.Error("a login is not held")
	}
}

// TestSecretMadeAnew by another between our look and our write is not ours.
func TestSecretMadeAnew(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil, namespace("team-a"))
	w.deliver("team-a", logins{host: login("u", "p")})
	_, err := w.Places(t.Context())
	must(t, err)
	core := w.api.CoreV1().Secrets("team-a")
	must(t, core.Delete(t.Context(), name, metav1.DeleteOptions{}))
	_, err = core.Create(t.Context(), pullSecret("team-a", host, login("someone", "else")), metav1.CreateOptions{})
	must(t, err)
	before := w.secret("team-a")
	if err := w.Deliver(t.Context(), "team-a", logins{host: login("u", "p2")}); problem.KindOf(err) != problem.Busy {
		t.Errorf("the error is %v", err)
	}
	if diff := cmp.Diff(before, w.secret("team-a")); diff != "" {
		t.Errorf("it was changed (-before +after):\n%s", diff)
	}
}

// TestBrokenDocument of ours is made whole: nobody can read it.
func TestBrokenDocument(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil, namespace("team-a"))
	w.deliver("team-a", logins{host: login("u", "p")})
	for _, broken := range []string{"{", "[]", `{"auths": []}`, `{"auths": {"registry.example": 7}}`, ""} {
		w.change("team-a", func(s *corev1.Secret) { s.Data[corev1.DockerConfigJsonKey] = []byte(broken) })
		_, err := w.Places(t.Context())
		must(t, err)
		if held, err := w.Held(t.Context(), "team-a", []credential.Host{host}); err != nil || len(held) > 0 {
			t.Errorf("%q holds %d logins, %v", broken, len(held), err)
		}
		w.deliver("team-a", logins{host: login("u", "p")})
		if held, err := w.Held(t.Context(), "team-a", []credential.Host{host}); err != nil || !held[host].Equal(login("u", "p")) {
			t.Errorf("%q is not healed: %v", broken, err)
		}
	}
}

// TestOneWrite for each Secret that changes, and none for one that does not;
// while it watches, no request besides.
func TestOneWrite(t *testing.T) {
	t.Parallel()
	var objects []runtime.Object
	var want []string
	for i := range 10 {
		objects = append(objects, namespace(fmt.Sprintf("team-%02d", i)))
		want = append(want, fmt.Sprintf("patch team-%02d", i))
	}
	for mode, watched := range map[string]bool{"unwatched": false, "watched": true} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, nil, objects...)
			if watched {
				w.watch()
			}
			for _, secret := range []string{"1", "2", "2", "3"} {
				places, err := w.Places(t.Context())
				must(t, err)
				w.api.ClearActions()
				var all sync.WaitGroup
				for _, place := range places {
					all.Go(func() {
						l := logins{host: login("u", secret)}
						for range 2 {
							held, err := w.DeliverConfirmed(t.Context(), place, l, []credential.Host{host})
							if err != nil || !held[host].Equal(l[host]) {
								t.Errorf("%s: %v", place, err)
							}
						}
					})
				}
				all.Wait()
				requests := 0
				for _, action := range w.api.Actions() {
					if action.GetResource().Resource != "events" {
						requests++
					}
				}
				got := w.writes("secrets")
				slices.Sort(got)
				if again := got == nil && secret == "2"; !again {
					if diff := cmp.Diff(want, got); diff != "" {
						t.Errorf("writes (-want +got):\n%s", diff)
					}
				}
				if requests != len(got) {
					t.Errorf("%d requests for %d writes", requests, len(got))
				}
			}
		})
	}
}

// TestErrors of the cluster say what to do, and which mean that a place is gone.
func TestErrors(t *testing.T) {
	t.Parallel()
	secret := corev1.Resource("secrets")
	terminating := apierrors.NewForbidden(secret, name, errors.New("namespace is being terminated"))
	terminating.ErrStatus.Details.Causes = []metav1.StatusCause{{Type: corev1.NamespaceTerminatingCause}}
	for what, c := range map[string]struct {
		err  error
		kind problem.Kind
		gone bool
	}{
		"forbidden":   {apierrors.NewForbidden(secret, name, errors.New("no")), problem.Denied, false},
		"terminating": {terminating, "", true},
		"not found":   {apierrors.NewNotFound(corev1.Resource("namespaces"), "team-a"), "", true},
		"too many":    {apierrors.NewTooManyRequests("later", 1), problem.Unreachable, false},
		"conflict":    {apierrors.NewConflict(secret, name, errors.New("again")), problem.Busy, false},
		"internal":    {apierrors.NewInternalError(errors.New("etcd")), problem.Unreachable, false},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, nil, namespace("team-a"))
			w.api.PrependReactor("patch", "secrets", func(clienttesting.Action) (bool, runtime.Object, error) { return true, nil, c.err })
			err := w.Deliver(context.Background(), "team-a", logins{host: login("u", "p")})
			if errors.Is(err, credential.ErrGone) != c.gone || !c.gone && (problem.KindOf(err) != c.kind || problem.HintOf(err) == "") {
				t.Errorf("the error is %v, of kind %v", err, problem.KindOf(err))
			}
		})
	}
}
