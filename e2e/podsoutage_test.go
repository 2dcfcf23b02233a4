package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/regkeeper/regkeeper/e2e/peers"
	"github.com/regkeeper/regkeeper/e2e/peers/busybox"
	"github.com/regkeeper/regkeeper/e2e/peers/kubernetes"
	"github.com/regkeeper/regkeeper/keeper"
)

// A node that does not answer, and an API server that does not, are told of,
// and cost no login: what pods hold is not revoked before they have the next.
func TestPodsOutages(t *testing.T) {
	t.Parallel()
	c := kubernetes.Start(t, kubernetes.Options{Node: true})
	c.Load(t, busyboxImage, busybox.Image(t))
	k := newPodKeeper(t, c, c.Kubeconfig(), "resync: 2s")
	names := numbered("pod", 3)
	for _, name := range names {
		c.Run(t, kubernetes.Sleeper(k.namespace, name, busyboxImage))
	}
	daemon := k.begins()
	k.heals("at the beginning", time.Minute, names...)

	before := k.login()
	acceptedStill := func(when string) {
		t.Helper()
		if ok, err := accepted(t.Context(), k.ref, before, http.DefaultTransport); err != nil || !ok {
			t.Errorf("%s: the login that the pods hold is accepted: %v, %v", when, ok, err)
		}
	}
	c.StopKubelet()
	if got := k.run("rotate"); got.code == 0 {
		t.Errorf("rotate ended well without a node:\n%s", got.out)
	}
	for _, name := range names {
		k.fails(name, "exec in container main of pod "+k.namespace+"/"+name, "kubectl describe node "+kubernetes.NodeName)
	}
	t.Logf("no kubelet: %s: %s", k.rows()[names[0]].Problem, k.rows()[names[0]].Hint)
	acceptedStill("no kubelet")
	began := time.Now()
	c.StartKubelet()
	started := time.Since(began)
	k.heals(fmt.Sprintf("the kubelet started again within %v", started.Round(time.Millisecond)), 2*time.Minute, names...)
	ended := func() error {
		if ok, err := accepted(t.Context(), k.ref, before, http.DefaultTransport); err != nil || ok {
			return fmt.Errorf("accepted %v, %w", ok, err)
		}
		return nil
	}
	eventually(t, time.Minute, "the end of the replaced login", ended)

	before = k.login()
	c.StopAPIServer()
	if got := k.run("rotate"); got.code == 0 {
		t.Errorf("rotate ended well without an API server:\n%s", got.out)
	}
	for _, name := range names {
		k.fails(name, "exec in container main of pod "+k.namespace+"/"+name, "")
	}
	t.Logf("no API server: %s: %s", k.rows()[names[0]].Problem, k.rows()[names[0]].Hint)
	acceptedStill("no API server")
	began = time.Now()
	c.StartAPIServer()
	started = time.Since(began)
	c.Run(t, kubernetes.Sleeper(k.namespace, "late", busyboxImage))
	k.heals(fmt.Sprintf("the API server started again within %v", started.Round(time.Millisecond)), 2*time.Minute, append(names, "late")...)
	eventually(t, time.Minute, "the end of the replaced login", ended)
	daemon.Stop()
}

// between is a proxy before an API server, which refuses some requests.
type between struct {
	*httptest.Server
	kubeconfig string
}

// newBetween has refuse answer a request itself, and say so.
func newBetween(t testing.TB, c *kubernetes.Cluster, refuse func(http.ResponseWriter, *http.Request) bool) between {
	t.Helper()
	config := c.Config()
	// The upgrades of SPDY take HTTP/1.1, and the transport does not know.
	config.NextProtos = []string{"http/1.1"}
	transport, err := rest.TransportFor(config)
	if err != nil {
		t.Fatal(err)
	}
	to, err := url.Parse(c.URL)
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(to) },
		Transport:     transport,
		FlushInterval: -1,
		ErrorHandler:  func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			// The proxy ends what it has begun to answer so, when it is cut off.
			if p := recover(); p != nil && p != http.ErrAbortHandler { //nolint:errorlint // a panic is no error
				panic(p)
			}
		}()
		if !refuse(w, r) {
			proxy.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	b := between{Server: server, kubeconfig: filepath.Join(t.TempDir(), "kubeconfig")}
	writeContexts(t, b.kubeconfig, map[string]string{"proxy": server.URL})
	return b
}

// writeContexts writes a kubeconfig with a context for each API server, which
// asks for no login.
func writeContexts(t testing.TB, path string, urls map[string]string) {
	t.Helper()
	config := clientcmdapi.NewConfig()
	for name, url := range urls {
		config.Clusters[name] = &clientcmdapi.Cluster{Server: url}
		config.Contexts[name] = &clientcmdapi.Context{Cluster: name}
		config.CurrentContext = name
	}
	if err := clientcmd.WriteToFile(*config, path); err != nil {
		t.Fatal(err)
	}
}

// answerStatus answers as an API server does that refuses.
func answerStatus(w http.ResponseWriter, code int32, reason metav1.StatusReason) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(int(code))
	_ = json.NewEncoder(w).Encode(metav1.Status{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusFailure, Code: code, Reason: reason, Message: "the test wants it so",
	})
}

func isWatch(r *http.Request) bool { return r.URL.Query().Get("watch") != "" }

func isExec(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, "/exec") }

// Whatever stands between regkeeper and the cluster refuses, all is well in the
// end: at the beginning, for pods that come later, and after a rotation.
func TestPodsThroughProxies(t *testing.T) {
	t.Parallel()
	c := sharedCluster(t)
	var all, busy, execs, watches, expired, sockets, spdy atomic.Int64
	for name, test := range map[string]struct {
		refuse func(http.ResponseWriter, *http.Request) bool
		// amid runs while the daemon does, after at the end.
		amid  func(t *testing.T)
		after func(t *testing.T)
	}{
		"429": {
			refuse: func(w http.ResponseWriter, r *http.Request) bool {
				if all.Add(1)%3 != 0 {
					return false
				}
				busy.Add(1)
				if isExec(r) {
					execs.Add(1)
				}
				w.Header().Set("Retry-After", "1")
				answerStatus(w, http.StatusTooManyRequests, metav1.StatusReasonTooManyRequests)
				return true
			},
			after: func(t *testing.T) {
				t.Logf("every third: %d of %d requests were answered 429, %d of these of an exec", busy.Load(), all.Load(), execs.Load())
				if execs.Load() == 0 {
					t.Error("no exec was refused")
				}
			},
		},
		"410": {
			refuse: func(w http.ResponseWriter, r *http.Request) bool {
				if !isWatch(r) {
					return false
				}
				if watches.Add(1)%2 == 0 {
					expired.Add(1)
					answerStatus(w, http.StatusGone, metav1.StatusReasonExpired)
					return true
				}
				ctx, cancel := context.WithCancel(r.Context())
				time.AfterFunc(time.Second, cancel)
				*r = *r.WithContext(ctx)
				return false
			},
			amid: func(t *testing.T) {
				eventually(t, time.Minute, "two watches that are answered 410", func() error {
					if n := expired.Load(); n < 2 {
						return fmt.Errorf("%d were", n)
					}
					return nil
				})
			},
			after: func(t *testing.T) {
				t.Logf("%d of %d watches were answered 410, the others ended after 1s", expired.Load(), watches.Load())
			},
		},
		"no WebSocket": {
			refuse: func(w http.ResponseWriter, r *http.Request) bool {
				switch {
				case strings.EqualFold(r.Header.Get("Upgrade"), "websocket"):
					sockets.Add(1)
					http.Error(w, "no WebSocket here", http.StatusForbidden)
					return true
				case isExec(r):
					spdy.Add(1)
				}
				return false
			},
			after: func(t *testing.T) {
				t.Logf("%d execs over SPDY, after %d refusals of WebSocket", spdy.Load(), sockets.Load())
				if spdy.Load() == 0 || spdy.Load() != sockets.Load() {
					t.Errorf("%d execs over SPDY after %d refusals", spdy.Load(), sockets.Load())
				}
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k := newPodKeeper(t, c, newBetween(t, c, test.refuse).kubeconfig, "resync: 2s")
			names := numbered("pod", 4)
			for _, name := range names[:2] {
				c.Run(t, kubernetes.Sleeper(k.namespace, name, busyboxImage))
			}
			daemon := k.begins()
			k.heals("at the beginning", time.Minute, names[:2]...)
			if test.amid != nil {
				test.amid(t)
			}
			for _, name := range names[2:] {
				c.Run(t, kubernetes.Sleeper(k.namespace, name, busyboxImage))
			}
			k.heals("more pods", time.Minute, names...)
			before := k.login()
			k.run("rotate") // it may fail: it is tried again
			eventually(t, time.Minute, "the end of the replaced login", func() error {
				if ok, err := accepted(t.Context(), k.ref, before, http.DefaultTransport); err != nil || ok {
					return fmt.Errorf("accepted %v, %w", ok, err)
				}
				return nil
			})
			k.heals("rotated", time.Minute, names...)
			daemon.Stop()
			test.after(t)
		})
	}
}

// A cluster that is dead, and one that accepts and never answers, fail on their
// own: the one that lives is served, and its logins are rotated.
func TestPodsOfManyClusters(t *testing.T) {
	t.Parallel()
	c := sharedCluster(t)
	dead, err := peers.FreeAddress("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	mute, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { mute.Close() })
	live := newBetween(t, c, func(http.ResponseWriter, *http.Request) bool { return false })
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	writeContexts(t, kubeconfig, map[string]string{"live": live.URL, "dead": "http://" + dead, "mute": "http://" + mute.Addr().String()})
	k := newPodKeeper(t, c, kubeconfig, "resync: 2s", "contexts: [live, dead, mute]")
	names := numbered("pod", 2)
	c.Run(t, kubernetes.Sleeper(k.namespace, names[0], busyboxImage))
	daemon := k.begins()
	began := time.Now()
	eventually(t, time.Minute, "the login", func() error { return k.holds(names[0]) })
	t.Logf("the pod of the live cluster: logged in after %v", time.Since(began).Round(time.Millisecond))
	c.Run(t, kubernetes.Sleeper(k.namespace, names[1], busyboxImage))
	began = time.Now()
	eventually(t, 20*time.Second, "the login", func() error { return k.holds(names[1]) })
	t.Logf("one that came later: logged in %v after it was ready", time.Since(began).Round(time.Millisecond))

	eventually(t, time.Minute, "status", func() error {
		began := time.Now()
		rows := map[string][]keeper.PlaceStatus{}
		for _, row := range k.status().Targets {
			rows[row.Name] = append(rows[row.Name], row)
		}
		took := time.Since(began)
		for _, row := range rows["pods@live"] {
			if row.Phase != keeper.OK || row.Problem != "" {
				return fmt.Errorf("live: %s: %s", row.Path, row.Problem)
			}
		}
		if len(rows["pods@live"]) != len(names) {
			return fmt.Errorf("live: %d rows", len(rows["pods@live"]))
		}
		for _, name := range []string{"dead", "mute"} {
			if got := rows["pods@"+name]; len(got) != 1 || got[0].Phase != keeper.Failed || !strings.Contains(got[0].Problem, "list pods of namespace "+k.namespace) {
				return fmt.Errorf("%s: %v", name, got)
			}
			t.Logf("%s: %s: %s", name, rows["pods@"+name][0].Problem, rows["pods@"+name][0].Hint)
		}
		t.Logf("status took %v", took.Round(time.Millisecond))
		return nil
	})

	began = time.Now()
	before := k.login()
	k.run("rotate")
	eventually(t, time.Minute, "the next login", func() error {
		if k.login().Password == before.Password {
			return fmt.Errorf("it is the one before")
		}
		for _, name := range names {
			if err := k.holds(name); err != nil {
				return err
			}
		}
		return nil
	})
	took := time.Since(began)
	t.Logf("rotated after %v", took.Round(time.Millisecond))
	// A pass looks at the places three times, and waits for a cluster once.
	if took > 15*time.Second {
		t.Errorf("the rotation took %v", took)
	}
	daemon.Stop()
}
