package trial

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"syscall"
	"time"
)

// errRedirect is in the chain when a redirect is not followed.
var errRedirect = errors.New("the redirect is not followed")

// proxyAnswer is a proxy that answers CONNECT with something else than 200.
type proxyAnswer struct {
	host   string
	status int
}

func (p *proxyAnswer) Error() string {
	return "the proxy " + p.host + " answered " + http.StatusText(p.status)
}

// faultOf classes an error by the types in its chain.
func faultOf(err error, host string, proxy *url.URL, now time.Time) *Fault {
	fault := &Fault{Kind: Other, Host: host, Text: err.Error()}
	if asked, ok := errors.AsType[*url.Error](err); ok {
		// What was asked stands in the step.
		fault.Text = asked.Err.Error()
	}
	// Of the packages' errors the first one found in this order says most.
	if answer, ok := errors.AsType[*proxyAnswer](err); ok {
		fault.Host, fault.Status, fault.Kind = answer.host, answer.status, ProxyRefused
		if answer.status == http.StatusProxyAuthRequired {
			fault.Kind = ProxyLogin
		}
		return fault
	}
	operation, _ := errors.AsType[*net.OpError](err)
	if operation != nil && operation.Op == "proxyconnect" {
		fault.Kind = ProxyUnreachable
		if proxy != nil {
			fault.Host = proxy.Host
		}
		return fault
	}
	if name, ok := errors.AsType[*net.DNSError](err); ok {
		fault.Kind, fault.Host = NameFailed, name.Name
		if name.IsNotFound {
			fault.Kind = NameUnknown
		}
		return fault
	}
	var network net.Error
	switch {
	case errors.Is(err, errRedirect):
		fault.Kind = Redirect
	case errors.Is(err, http.ErrSchemeMismatch), errors.As(err, new(tls.RecordHeaderError)):
		fault.Kind = PlainSpoken
	case errors.As(err, new(x509.UnknownAuthorityError)):
		fault.Kind = UnknownAuthority
	case errors.As(err, new(x509.HostnameError)):
		fault.Kind = WrongName
	case errors.As(err, new(x509.CertificateInvalidError)):
		fault.Kind = invalid(err, now)
	case errors.As(err, new(*tls.CertificateVerificationError)), errors.As(err, new(x509.SystemRootsError)):
		fault.Kind = BadCertificate
	case operation != nil && operation.Op == "remote error": // crypto/tls, Conn
		fault.Kind = Alert
	case errors.Is(err, syscall.ECONNREFUSED):
		fault.Kind = Refused
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH):
		fault.Kind = NoRoute
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &network) && network.Timeout():
		fault.Kind = Timeout
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		fault.Kind = Broken
	}
	return fault
}

// invalid tells the certificates apart whose reason is one and the same.
func invalid(err error, now time.Time) FaultKind {
	said, _ := errors.AsType[x509.CertificateInvalidError](err)
	switch {
	case said.Reason != x509.Expired:
		return BadCertificate
	case said.Cert != nil && now.Before(said.Cert.NotBefore):
		return NotYet
	}
	return Expired
}

// shownBy is the certificate that a server showed in a handshake that failed.
func shownBy(err error) *Certificate {
	if said, ok := errors.AsType[*tls.CertificateVerificationError](err); ok && len(said.UnverifiedCertificates) > 0 {
		return certificate(said.UnverifiedCertificates[0])
	}
	return nil
}

func certificate(c *x509.Certificate) *Certificate {
	names := slices.Clone(c.DNSNames)
	for _, ip := range c.IPAddresses {
		names = append(names, ip.String())
	}
	return &Certificate{
		Subject: c.Subject.String(), Issuer: c.Issuer.String(), Names: names,
		NotBefore: c.NotBefore.UTC(), NotAfter: c.NotAfter.UTC(),
	}
}
