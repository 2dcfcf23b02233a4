package kubernetes

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// keys are the certificate authority of a cluster and the key that signs the
// tokens of its ServiceAccounts. The authority's key is kept in memory only.
type keys struct {
	dir      string
	root     *x509.Certificate
	rootKey  *ecdsa.PrivateKey
	rootText []byte
}

// newKeys also writes the pairs "apiserver" and "kubelet": certificates for
// the addresses, the first of which is the one that the API server shows to
// kubelets as a client.
func newKeys(dir string, addresses []net.IP) (*keys, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("create folder: %w", err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generate key: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test cluster"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("sign authority: %w", err)
	}
	k := &keys{dir: dir, rootKey: key, rootText: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
	if k.root, err = x509.ParseCertificate(der); err != nil {
		return nil, fmt.Errorf("parse authority: %w", err)
	}
	if err := os.WriteFile(k.ca(), k.rootText, 0o600); err != nil {
		return nil, fmt.Errorf("write authority: %w", err)
	}
	servers := map[string]pkix.Name{
		"apiserver": {CommonName: "kube-apiserver", Organization: []string{"system:masters"}},
		"kubelet":   {CommonName: "system:node:" + NodeName, Organization: []string{"system:nodes"}},
		"accounts":  {CommonName: "service accounts"},
	}
	for name, subject := range servers {
		cert, key, err := k.pair(subject, addresses)
		if err != nil {
			return nil, fmt.Errorf("make pair %s: %w", name, err)
		}
		if err := os.WriteFile(k.cert(name), cert, 0o600); err != nil {
			return nil, fmt.Errorf("write certificate: %w", err)
		}
		if err := os.WriteFile(k.key(name), key, 0o600); err != nil {
			return nil, fmt.Errorf("write key: %w", err)
		}
	}
	return k, nil
}

func (k *keys) ca() string              { return filepath.Join(k.dir, "ca.crt") }
func (k *keys) cert(name string) string { return filepath.Join(k.dir, name+".crt") }
func (k *keys) key(name string) string  { return filepath.Join(k.dir, name+".key") }

// pair makes a certificate for a server and a client, and its key, in PEM.
func (k *keys) pair(subject pkix.Name, addresses []net.IP) (cert, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: subject, NotBefore: k.root.NotBefore, NotAfter: k.root.NotAfter,
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		DNSNames:    []string{"localhost", NodeName, "kubernetes", "kubernetes.default", "kubernetes.default.svc"}, IPAddresses: addresses,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, k.root, private.Public(), k.rootKey)
	if err != nil {
		return nil, nil, err
	}
	text, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: text}), nil
}

// kubeconfig writes the kubeconfig of a user who signs in with a certificate.
func (k *keys) kubeconfig(path, url, user string, groups ...string) error {
	cert, key, err := k.pair(pkix.Name{CommonName: user, Organization: groups}, nil)
	if err != nil {
		return fmt.Errorf("make pair: %w", err)
	}
	return k.writeKubeconfig(path, url, user, &clientcmdapi.AuthInfo{ClientCertificateData: cert, ClientKeyData: key})
}

func (k *keys) writeKubeconfig(path, url, user string, auth *clientcmdapi.AuthInfo) error {
	const name = "test"
	return clientcmd.WriteToFile(clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{name: {Server: url, CertificateAuthorityData: k.rootText}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{user: auth},
		Contexts:       map[string]*clientcmdapi.Context{name: {Cluster: name, AuthInfo: user}},
		CurrentContext: name,
	}, path)
}
