package e2e_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/regkeeper/regkeeper/e2e/peers/build"
	"github.com/regkeeper/regkeeper/e2e/peers/clients"
	"github.com/regkeeper/regkeeper/e2e/peers/docker"
	"github.com/regkeeper/regkeeper/e2e/peers/process"
)

// createdToken is what registry token create prints.
type createdToken struct {
	ID    string `json:"id"`
	User  string `json:"user"`
	Token string `json:"token"`
}

// The first command of the README, in an empty folder.
func TestUpWithoutConfiguration(t *testing.T) {
	t.Parallel()
	table := clients.All(t, docker.Start(t))
	p := newProduct(t, "")
	daemon := p.up("--listen", "127.0.0.1:0")
	status := p.status()
	host, ref, file := string(status.Registries[0].Host), status.Registries[0].Probe, status.Targets[0].Path
	if !strings.HasPrefix(ref, host+"/") || !strings.HasPrefix(file, p.data()) {
		t.Fatalf("status: %+v", status)
	}

	none := writeConfig(t, host, "regkeeper", "")
	create := func(name string, args ...string) createdToken {
		t.Helper()
		return decode[createdToken](t, p.must(append([]string{"registry", "token", "create", "--name", name, "-o", "json"}, args...)...))
	}
	pusher := create("pusher", "--scope", "pull,push")
	narrow := create("narrow", "--scope", "pull,push", "--repository", "other/*")
	reader := create("reader", "--scope", "pull")
	with := func(token createdToken) string { return writeConfig(t, host, token.User, token.Token) }

	for _, client := range table {
		for range 2 {
			if err := client.Pull(t.Context(), ref, file); err != nil {
				t.Errorf("%s with the delivered file: %v", client.Name, err)
			}
		}
		refused(t, client.Name+", none", client.Pull(t.Context(), ref, none))
		refused(t, client.Name+", wrong", client.Pull(t.Context(), ref, writeConfig(t, host, "regkeeper", wrong)))
		// Whether the repository exists makes no difference to who is nobody.
		refused(t, client.Name+", none, no image", client.Pull(t.Context(), host+"/no/such:v1", none))

		pushed := host + "/team/" + client.Name + ":v1"
		if err := client.Push(t.Context(), pushed, with(pusher)); err != nil {
			t.Errorf("%s pushes: %v", client.Name, err)
		}
		if err := client.Pull(t.Context(), pushed, with(reader)); err != nil {
			t.Errorf("%s pulls what it pushed: %v", client.Name, err)
		}
		refusedPush(t, client.Name+", reader", client.Push(t.Context(), pushed, with(reader)))
		refusedPush(t, client.Name+", delivered", client.Push(t.Context(), pushed, file))
		refusedPush(t, client.Name+", elsewhere", client.Push(t.Context(), pushed, with(narrow)))
	}

	p.must("registry", "token", "revoke", pusher.ID, "reader")
	for _, client := range table {
		pushed := host + "/team/" + client.Name + ":v1"
		refused(t, client.Name+", revoked", client.Pull(t.Context(), pushed, with(reader)))
		refusedPush(t, client.Name+", revoked", client.Push(t.Context(), pushed, with(pusher)))
		if err := client.Pull(t.Context(), pushed, file); err != nil {
			t.Errorf("%s with the delivered file: %v", client.Name, err)
		}
	}

	// A second start finds its state and mints nothing.
	daemon.Stop()
	if err := clients.Crane(t).Pull(t.Context(), ref, file); err == nil {
		t.Error("a pull passed while regkeeper was stopped")
	}
	p.up()
	again := p.status()
	if got, want := again.Registries[0].Credential, status.Registries[0].Credential; got != want || string(again.Registries[0].Host) != host {
		t.Errorf("after a second start %s at %s is in force, want %s at %s", got, again.Registries[0].Host, want, host)
	}
	for _, client := range table {
		if err := client.Pull(t.Context(), ref, file); err != nil {
			t.Errorf("%s after a second start: %v", client.Name, err)
		}
	}
}

// refusedPush wants a push to fail for lack of a right: 401 or 403.
func refusedPush(t *testing.T, login string, err error) {
	t.Helper()
	if err != nil && (strings.Contains(strings.ToLower(err.Error()), "denied") || strings.Contains(err.Error(), "403")) {
		return
	}
	refused(t, login, err)
}

// The embedded registry over TLS, with a certificate of a CA of the test.
func TestEmbeddedRegistryTLS(t *testing.T) {
	t.Parallel()
	ca, cert, key := certificates(t)
	// The registry's address is in the configuration, so it must be known
	// before: a port that was free a moment ago.
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	host := listener.Addr().String()
	listener.Close()

	file := filepath.Join(t.TempDir(), "config.json")
	serve := "  registry: {listen: \"" + host + "\", tls: {cert: \"" + cert + "\", key: \"" + key + "\"}}\n"
	text := configText([]kept{{host: host, source: "builtin: {}", scopes: "pull, push, delete"}}, serve, file)
	p := newProduct(t, text, "SSL_CERT_FILE="+ca)
	p.up()

	crane := build.Go(t, clients.CraneTool).Path
	run := func(ca string, args ...string) error {
		cmd := exec.Command(crane, args...)
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + p.home, "DOCKER_CONFIG=" + filepath.Dir(file), "SSL_CERT_FILE=" + ca}
		_, err := process.Output(t.Context(), cmd)
		return err
	}
	base := filepath.Join(t.TempDir(), "base.tar")
	writeText(t, base, string(make([]byte, 1024))) // an empty archive
	if err := run(ca, "append", "--new_layer", base, "--new_tag", host+"/team/app:v1"); err != nil {
		t.Fatalf("push: %v", err)
	}
	if err := run(ca, "pull", host+"/team/app:v1", filepath.Join(t.TempDir(), "app.tar")); err != nil {
		t.Errorf("pull: %v", err)
	}
	if err := run(cert+".none", "pull", host+"/team/app:v1", filepath.Join(t.TempDir(), "app.tar")); err == nil {
		t.Error("a client that does not know the CA pulled")
	}
	p.must("rotate")
	if err := run(ca, "pull", host+"/team/app:v1", filepath.Join(t.TempDir(), "app.tar")); err != nil {
		t.Errorf("pull after a rotation: %v", err)
	}
}

// certificates writes a CA's certificate, and one for 127.0.0.1 with its key.
func certificates(t *testing.T) (ca, cert, key string) {
	t.Helper()
	dir := t.TempDir()
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	issue := func(template, parent *x509.Certificate, signer *ecdsa.PrivateKey) ([]byte, *ecdsa.PrivateKey) {
		own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if signer == nil {
			signer = own
		}
		template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
		der, err := x509.CreateCertificate(rand.Reader, template, parent, &own.PublicKey, signer)
		if err != nil {
			t.Fatal(err)
		}
		return der, own
	}
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	rootDER, rootKey := issue(root, root, nil)
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "test registry"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	leafDER, leafKey := issue(leaf, root, rootKey)
	keyDER, err := x509.MarshalECPrivateKey(leafKey)
	if err != nil {
		t.Fatal(err)
	}
	return write("ca.pem", "CERTIFICATE", rootDER), write("cert.pem", "CERTIFICATE", leafDER), write("key.pem", "EC PRIVATE KEY", keyDER)
}
