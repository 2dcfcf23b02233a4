package trial_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/regkeeper/regkeeper/consumer"
	"github.com/regkeeper/regkeeper/registry/trial"
)

// server starts a server of TLS with the certificate, or of plain HTTP without.
func server(t *testing.T, config *tls.Config, handler http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(handler)
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	if config == nil {
		s.Start()
	} else {
		s.TLS = config
		s.StartTLS()
	}
	t.Cleanup(s.Close)
	return s
}

func hostOf(t *testing.T, s *httptest.Server) string {
	t.Helper()
	u, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	return u.Host
}

// authority issues certificates.
type authority struct {
	t    *testing.T
	root *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "the company's own authority"}, NotAfter: time.Now().AddDate(1, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	a.root, a.key, _ = a.sign(template, template, nil)
	return a
}

func (a *authority) sign(template, parent *x509.Certificate, signer *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey, []byte) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	if signer == nil {
		signer = key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return parsed, key, der
}

// issue issues one for a name or address, from and until so far from now.
func (a *authority) issue(name string, from, until time.Duration, use x509.ExtKeyUsage) *tls.Config {
	a.t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(from), NotAfter: time.Now().Add(until),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{use},
	}
	if ip := net.ParseIP(name); ip != nil {
		template.IPAddresses = []net.IP{ip}
	} else {
		template.DNSNames = []string{name}
	}
	_, key, der := a.sign(template, a.root, a.key)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
}

// trusts is what trusts the authority.
func (a *authority) trusts() *tls.Config {
	pool := x509.NewCertPool()
	pool.AddCert(a.root)
	return &tls.Config{RootCAs: pool}
}

func ok(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) }

const day = 24 * time.Hour

func TestTLS(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	const here, serverUse = "127.0.0.1", x509.ExtKeyUsageServerAuth
	good := a.issue(here, -day, day, serverUse)
	wants := a.issue(here, -day, day, serverUse)
	wants.ClientAuth = tls.RequireAnyClientCert
	for _, c := range []struct {
		name   string
		config *tls.Config
		trusts *tls.Config
		want   trial.FaultKind
		stage  trial.Stage
	}{
		{"good", good, a.trusts(), "", trial.Manifest},
		{"unknown authority", good, nil, trial.UnknownAuthority, trial.TLS},
		{"wrong name", a.issue("registry.example.com", -day, day, serverUse), a.trusts(), trial.WrongName, trial.TLS},
		{"expired", a.issue(here, -2*day, -day, serverUse), a.trusts(), trial.Expired, trial.TLS},
		{"not yet", a.issue(here, day, 2*day, serverUse), a.trusts(), trial.NotYet, trial.TLS},
		{"for clients", a.issue(here, -day, day, x509.ExtKeyUsageClientAuth), a.trusts(), trial.BadCertificate, trial.TLS},
		{"wants a client's", wants, a.trusts(), trial.Alert, trial.TLS},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := server(t, c.config, ok)
			answer := try(t, trial.New(trial.Config{TLS: c.trusts, Proxy: noProxy}), trial.Question{Image: hostOf(t, s) + "/team/app:v1", Login: bot()})
			wantFault(t, answer, c.want, c.stage)
			if c.stage == trial.TLS && c.want != trial.Alert {
				if shown := answer.Last().Certificate; shown == nil || !strings.Contains(shown.Issuer, "authority") || len(shown.Names) != 1 {
					t.Errorf("certificate: %+v", shown)
				}
			}
			if c.want == "" {
				if step, ok := answer.At(trial.TLS); !ok || step.Got != "TLS 1.3" || step.Certificate == nil {
					t.Errorf("handshake: %+v", step)
				}
			}
		})
	}
}

func wantFault(t *testing.T, answer trial.Answer, kind trial.FaultKind, stage trial.Stage) {
	t.Helper()
	last := answer.Last()
	switch {
	case last.Stage != stage:
		t.Errorf("it ended at %s, want %s: %+v", last.Stage, stage, last)
	case kind == "" && last.Fault != nil:
		t.Errorf("fault %+v", last.Fault)
	case kind != "" && (last.Fault == nil || last.Fault.Kind != kind):
		t.Errorf("fault %+v, want %s", last.Fault, kind)
	case kind != "" && (last.Fault.Text == "" || last.Fault.Host == ""):
		t.Errorf("fault says nothing: %+v", last.Fault)
	}
}

// listen starts a listener that hands each connection over.
func listen(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serve(conn)
		}
	}()
	return listener.Addr().String()
}

func TestConnections(t *testing.T) {
	t.Parallel()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refused := closed.Addr().String()
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	// It accepts and says nothing: connections stay open until the test ends.
	mute := listen(t, func(conn net.Conn) { t.Cleanup(func() { _ = conn.Close() }) })
	// It reads what is asked and hangs up.
	rude := listen(t, func(conn net.Conn) { _, _ = conn.Read(make([]byte, 1)); _ = conn.Close() })
	for _, c := range []struct {
		name, host string
		want       trial.FaultKind
		stage      trial.Stage
	}{
		{"refused", refused, trial.Refused, trial.Connect},
		{"mute", mute, trial.Timeout, trial.TLS},
		{"rude", rude, trial.Broken, trial.Root},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			trier := trial.New(trial.Config{Proxy: noProxy, Timeout: 100 * time.Millisecond})
			if c.want != trial.Timeout {
				trier = direct()
			}
			wantFault(t, try(t, trier, trial.Question{Image: c.host + "/team/app:v1", Login: bot()}), c.want, c.stage)
		})
	}
}

// names is a DNS server on loopback that knows one name, and a resolver that asks
// it. A mute one answers nothing.
func names(t *testing.T, known string, mute bool) *net.Resolver {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	go func() {
		buffer := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(buffer)
			if err != nil {
				return
			}
			var question dnsmessage.Message
			if mute || question.Unpack(buffer[:n]) != nil || len(question.Questions) != 1 {
				continue
			}
			q := question.Questions[0]
			reply := dnsmessage.Message{Header: dnsmessage.Header{ID: question.ID, Response: true, RCode: dnsmessage.RCodeNameError}, Questions: question.Questions}
			if q.Name.String() == known+"." {
				reply.RCode = dnsmessage.RCodeSuccess
				if q.Type == dnsmessage.TypeA {
					reply.Answers = []dnsmessage.Resource{{
						Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class}, Body: &dnsmessage.AResource{A: [4]byte{127, 0, 0, 1}},
					}}
				}
			}
			if packed, err := reply.Pack(); err == nil {
				_, _ = conn.WriteTo(packed, from)
			}
		}
	}()
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", conn.LocalAddr().String())
	}}
}

const registryName = "registry.regkeeper.test"

func TestNames(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name     string
		resolver *net.Resolver
		timeout  time.Duration
		want     trial.FaultKind
	}{
		{"unknown", names(t, "another.regkeeper.test", false), 0, trial.NameUnknown},
		{"no answer", names(t, registryName, true), 100 * time.Millisecond, trial.NameFailed},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			trier := trial.New(trial.Config{Proxy: noProxy, Resolver: c.resolver, Timeout: c.timeout})
			answer := try(t, trier, trial.Question{Image: registryName + "/team/app:v1", Login: bot()})
			wantFault(t, answer, c.want, trial.Name)
			if fault := answer.Fault(); fault != nil && fault.Host != registryName {
				t.Errorf("the fault is about %q", fault.Host)
			}
		})
	}
}

func TestPlainHTTP(t *testing.T) {
	t.Parallel()
	resolver := names(t, registryName, false)
	plain := server(t, nil, ok)
	_, port, err := net.SplitHostPort(hostOf(t, plain))
	if err != nil {
		t.Fatal(err)
	}
	a := newAuthority(t)
	secure := server(t, a.issue(registryName, -day, day, x509.ExtKeyUsageServerAuth), ok)
	_, securePort, err := net.SplitHostPort(hostOf(t, secure))
	if err != nil {
		t.Fatal(err)
	}
	trier := trial.New(trial.Config{Proxy: noProxy, Resolver: resolver, TLS: a.trusts()})
	for _, c := range []struct {
		name     string
		question trial.Question
		want     trial.FaultKind
		stage    trial.Stage
	}{
		{"not allowed", trial.Question{Image: registryName + ":" + port + "/app"}, trial.PlainSpoken, trial.TLS},
		{"allowed", trial.Question{Image: registryName + ":" + port + "/app", Insecure: true}, "", trial.Manifest},
		{"alone", trial.Question{Image: registryName + ":" + port + "/app", Plain: true}, "", trial.Manifest},
		{"TLS in its place", trial.Question{Image: registryName + ":" + securePort + "/app", Plain: true}, trial.TLSSpoken, trial.Root},
		{"TLS, and plain allowed", trial.Question{Image: registryName + ":" + securePort + "/app", Insecure: true}, "", trial.Manifest},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			answer := try(t, trier, c.question)
			wantFault(t, answer, c.want, c.stage)
			if looked, ok := answer.At(trial.Name); !ok || looked.Got != "127.0.0.1" {
				t.Errorf("the name was looked up: %+v", looked)
			}
		})
	}
}

// A registry that speaks HTTPS and names a token server in plain HTTP gets no
// login there; nobody has nothing to lose.
func TestPlainTokenServer(t *testing.T) {
	t.Parallel()
	resolver := names(t, registryName, false)
	shown := make(chan string, 1)
	tokens := server(t, nil, func(w http.ResponseWriter, r *http.Request) {
		shown <- r.Header.Get("Authorization")
		_, _ = io.WriteString(w, `{"access_token":"the-token"}`)
	})
	a := newAuthority(t)
	secure := server(t, a.issue(registryName, -day, day, x509.ExtKeyUsageServerAuth), func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == "" {
			w.Header().Set("Www-Authenticate", `Bearer realm="`+tokens.URL+`/token"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.Header().Set("Docker-Content-Digest", "sha256:0")
	})
	_, port, err := net.SplitHostPort(hostOf(t, secure))
	if err != nil {
		t.Fatal(err)
	}
	trier := trial.New(trial.Config{Proxy: noProxy, Resolver: resolver, TLS: a.trusts()})
	image := registryName + ":" + port + "/app"
	wantFault(t, try(t, trier, trial.Question{Image: image, Login: bot()}), trial.PlainRealm, trial.Token)
	select {
	case header := <-shown:
		t.Fatalf("the token server was asked, and shown %q", header)
	default:
	}
	if answer := try(t, trier, trial.Question{Image: image}); !answer.Pulls() {
		t.Errorf("nobody: %+v", answer.Last())
	}
	if header := <-shown; header != "" {
		t.Errorf("nobody showed %q", header)
	}
	for _, realm := range []string{"", "ftp://x/y", "/token", "https://"} {
		odd := server(t, nil, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Www-Authenticate", `Bearer realm="`+realm+`"`)
			w.WriteHeader(http.StatusUnauthorized)
		})
		wantFault(t, try(t, direct(), trial.Question{Image: hostOf(t, odd) + "/app", Login: bot()}), trial.BadRealm, trial.Token)
	}
}

// proxyTo is a proxy for everything.
func proxyTo(address string) func(*http.Request) (*url.URL, error) {
	return func(*http.Request) (*url.URL, error) {
		return &url.URL{Scheme: "http", Host: address, User: url.UserPassword("who", "proxy-secret")}, nil
	}
}

func TestProxies(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	registry := server(t, a.issue("127.0.0.1", -day, day, x509.ExtKeyUsageServerAuth), ok)
	answering := func(status int) string {
		return hostOf(t, server(t, nil, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Proxy-Authenticate", `Basic realm="proxy"`)
			w.WriteHeader(status)
		}))
	}
	tunnel := hostOf(t, server(t, nil, func(w http.ResponseWriter, r *http.Request) {
		to, err := net.Dial("tcp", r.Host)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		w.WriteHeader(http.StatusOK)
		from, buffered, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		go func() { _, _ = io.Copy(to, buffered) }()
		_, _ = io.Copy(from, to)
		_ = from.Close()
		_ = to.Close()
	}))
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, proxy string
		plain       bool
		want        trial.FaultKind
		stage       trial.Stage
		status      int
	}{
		{"lets through", tunnel, false, "", trial.Manifest, 0},
		{"wants a login", answering(http.StatusProxyAuthRequired), false, trial.ProxyLogin, trial.Connect, 407},
		{"wants a login for plain HTTP", answering(http.StatusProxyAuthRequired), true, trial.ProxyLogin, trial.Root, 407},
		{"forbids", answering(http.StatusForbidden), false, trial.ProxyRefused, trial.Connect, 403},
		{"does not reach it", answering(http.StatusBadGateway), false, trial.ProxyRefused, trial.Connect, 502},
		{"is down", closed.Addr().String(), false, trial.ProxyUnreachable, trial.Connect, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			trier := trial.New(trial.Config{Proxy: proxyTo(c.proxy), TLS: a.trusts()})
			answer := try(t, trier, trial.Question{Image: hostOf(t, registry) + "/app", Login: bot(), Plain: c.plain})
			wantFault(t, answer, c.want, c.stage)
			if answer.Proxy != c.proxy {
				t.Errorf("proxy %q, want %q", answer.Proxy, c.proxy)
			}
			if fault := answer.Fault(); fault != nil && (fault.Host != c.proxy || fault.Status != c.status) {
				t.Errorf("fault %+v, want one of %s with %d", fault, c.proxy, c.status)
			}
			if bytes.Contains(marshal(t, answer), []byte("proxy-secret")) {
				t.Error("the proxy's password is in the answer")
			}
		})
	}
}

// Any web server may say that all is well.
func TestPageIsNoManifest(t *testing.T) {
	t.Parallel()
	page := server(t, nil, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = io.WriteString(w, "<html>welcome</html>")
	})
	trier := trial.New(trial.Config{Proxy: noProxy})
	if answer := try(t, trier, trial.Question{Image: hostOf(t, page) + "/app"}); answer.Pulls() {
		t.Errorf("a page counts for an image: %+v", answer.Last())
	}
}

// A login is shown once, however many clients it is of: a wrong one that is shown
// again and again locks its account.
func TestAskedOnce(t *testing.T) {
	t.Parallel()
	shown := make(chan string, 10)
	registry := server(t, nil, func(w http.ResponseWriter, r *http.Request) {
		if header := r.Header.Get("Authorization"); header != "" && r.Method == http.MethodHead {
			shown <- header
		}
		w.Header().Set("Www-Authenticate", `Basic realm="r"`)
		w.WriteHeader(http.StatusUnauthorized)
	})
	trier := trial.New(trial.Config{Proxy: noProxy})
	found := consumer.Found{Login: bot(), Where: "config.json"}
	decision := consumer.Decision{Image: hostOf(t, registry) + "/app:1", Outcomes: []consumer.Outcome{{Tries: []consumer.Found{found}}}}
	for range 3 {
		if _, err := trier.TryAll(t.Context(), decision, trial.Options{}); err != nil {
			t.Fatal(err)
		}
	}
	if len(shown) != 1 {
		t.Errorf("the login was shown %d times", len(shown))
	}
}
