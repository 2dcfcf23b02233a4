package e2e_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	regtransport "github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/e2e/peers/commands"
	"github.com/regkeeper/regkeeper/internal/transport"
	"github.com/regkeeper/regkeeper/registry/oci"
)

// rounds is how often each contender runs; the medians count.
const rounds = 3

// contender is one way to do a piece of work.
type contender struct {
	name string
	// run does the work once and says how long it took.
	run func(round int) time.Duration
}

// race runs all contenders in each round, every round beginning with another.
// Before each, what earlier ones left to be written is written.
func race(b *testing.B, all ...contender) map[string]time.Duration {
	b.Helper()
	took := map[string][]time.Duration{}
	for round := range rounds {
		for i := range all {
			c := all[(i+round)%len(all)]
			writeOut()
			took[c.name] = append(took[c.name], c.run(round))
		}
	}
	medians := map[string]time.Duration{}
	for name, list := range took {
		medians[name] = median(list)
	}
	return medians
}

// writeOut has the kernel write what programs have written, so that nobody waits for
// another's data.
func writeOut() { _ = exec.Command("sync").Run() }

// machineLoad is the machine's, over the last minute.
func machineLoad(b *testing.B) float64 {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		b.Fatal(err)
	}
	one, _, _ := strings.Cut(string(text), " ")
	sum, err := strconv.ParseFloat(one, 64)
	if err != nil {
		b.Fatal(err)
	}
	return sum
}

// benchTable collects rows for people; the first row names the columns.
type benchTable [][]string

func (t *benchTable) row(cells ...any) {
	var row []string
	for _, cell := range cells {
		switch cell := cell.(type) {
		case time.Duration:
			row = append(row, fmt.Sprintf("%.2f s", cell.Seconds()))
		case float64:
			row = append(row, fmt.Sprintf("%.2f", cell))
		default:
			row = append(row, fmt.Sprint(cell))
		}
	}
	*t = append(*t, row)
}

func (t *benchTable) String() string {
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	for _, row := range *t {
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	_ = w.Flush()
	return text.String()
}

// meteredRun is how a run of regkeeper ended, and what it took.
type meteredRun struct {
	outcome
	took time.Duration
	cpu  time.Duration
	peak float64 // of its resident memory, in MiB
}

// meter runs regkeeper. The peak is read from /proc every few milliseconds: what
// wait4(2) tells of a child begins with its parent's size.
func (p *product) meter(args ...string) meteredRun {
	p.t.Helper()
	cmd := p.command(args...)
	var out, diag bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &diag
	began := time.Now()
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	ended := make(chan struct{})
	peak := make(chan float64)
	go func() {
		most := 0.0
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			if text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(cmd.Process.Pid), "status")); err == nil {
				// Of regkeeper only: until exec(2) the child is its parent.
				if _, rest, ok := strings.Cut(string(text), "VmHWM:"); ok && strings.HasPrefix(string(text), "Name:\tregkeeper\n") {
					kib, _ := strconv.ParseFloat(strings.Fields(rest)[0], 64)
					most = max(most, kib/1024)
				}
			}
			select {
			case <-ended:
				peak <- most
				return
			case <-tick.C:
			}
		}
	}()
	_ = cmd.Wait() // the exit code tells
	m := meteredRun{took: time.Since(began), cpu: cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()}
	close(ended)
	m.peak = <-peak
	m.outcome = outcome{cmd.ProcessState.ExitCode(), out.String(), diag.String()}
	return m
}

// mustPeer runs a peer's command, which must succeed.
func mustPeer(b *testing.B, c *commands.Command, configJSONPath string, args ...string) string {
	b.Helper()
	out, err := c.Run(b.Context(), configJSONPath, args...)
	if err != nil {
		b.Fatalf("%s %v: %v", c.Name, args, err)
	}
	return out
}

// atOnceEach does something n times, so many at once.
func atOnceEach(b *testing.B, n, atOnce int, do func(i int) error) {
	b.Helper()
	var group errgroup.Group
	group.SetLimit(atOnce)
	for i := range n {
		group.Go(func() error { return do(i) })
	}
	if err := group.Wait(); err != nil {
		b.Fatal(err)
	}
}

// proxyCounter is a proxy before a registry that counts requests by what they are for.
type proxyCounter struct {
	host string

	mu    sync.Mutex
	kinds map[string]int
}

func countBefore(b *testing.B, host string) *proxyCounter {
	b.Helper()
	c := &proxyCounter{kinds: map[string]int{}}
	to := &url.URL{Scheme: "http", Host: host}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(to)
		r.Out.Host = r.In.Host // registries tell places by it
		r.SetXForwarded()
	}}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.mu.Lock()
		c.kinds[requestKind(r)]++
		c.mu.Unlock()
		proxy.ServeHTTP(w, r)
	}))
	b.Cleanup(server.Close)
	c.host = strings.TrimPrefix(server.URL, "http://")
	return c
}

// take returns the counts since the last call, and their sum.
func (c *proxyCounter) take() (map[string]int, int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	kinds := c.kinds
	c.kinds = map[string]int{}
	sum := 0
	for _, n := range kinds {
		sum += n
	}
	return kinds, sum
}

var requestTarget = regexp.MustCompile(`/(manifests|blobs|referrers)/([^/]+)$`)

func requestKind(r *http.Request) string {
	path := r.URL.Path
	switch m := requestTarget.FindStringSubmatch(path); {
	case m != nil && m[1] == "manifests" && !strings.Contains(m[2], ":"):
		return r.Method + " manifest by tag"
	case m != nil && m[1] == "manifests":
		return r.Method + " manifest by digest"
	case m != nil:
		return r.Method + " " + strings.TrimSuffix(m[1], "s")
	case path == "/v2" || path == "/v2/":
		return "ping"
	case strings.HasSuffix(path, "/tags/list"):
		return "tags"
	case strings.HasPrefix(path, "/api/"):
		return "native"
	case strings.Contains(path, "/blobs/uploads/"):
		return r.Method + " upload"
	case strings.Contains(path, "token"):
		return "token"
	}
	return r.Method + " other"
}

// perKind tells counts for people, per so many.
func perKind(counts map[string]int, per int) string {
	var parts []string
	for kind, n := range counts {
		parts = append(parts, fmt.Sprintf("%s %.3g", kind, float64(n)/float64(per)))
	}
	slices.Sort(parts)
	return strings.Join(parts, ", ")
}

// clientOf is a client of a registry for this program's own use.
func clientOf(host, username, password string) *oci.Registry {
	config := oci.Config{Host: credential.Host(host), Transport: transport.New(transport.Config{})}
	if username != "" {
		config.Login = func(context.Context) (credential.Login, error) {
			return credential.Login{Username: username, Secret: credential.NewSecret(password)}, nil
		}
	}
	return oci.New(config)
}

// imageFiller writes images with as few requests as there can be.
type imageFiller struct {
	b      *testing.B
	client *http.Client
	root   string // of the repository
}

func fillerOf(b *testing.B, host, path, username, password string) *imageFiller {
	b.Helper()
	repository, err := name.NewRepository(host + "/" + path)
	if err != nil {
		b.Fatal(err)
	}
	auth := authn.Anonymous
	if username != "" {
		auth = &authn.Basic{Username: username, Password: password}
	}
	pooled := &http.Transport{MaxIdleConnsPerHost: 16}
	sent, err := regtransport.NewWithContext(b.Context(), repository.Registry, auth, pooled, []string{repository.Scope(regtransport.PushScope)})
	if err != nil {
		b.Fatal(err)
	}
	return &imageFiller{b: b, client: &http.Client{Transport: sent}, root: "http://" + host + "/v2/" + path}
}

func (f *imageFiller) send(method, place, mediaType string, content []byte) (*http.Response, error) {
	request, err := http.NewRequestWithContext(f.b.Context(), method, place, bytes.NewReader(content))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", mediaType)
	response, err := f.client.Do(request)
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(response.Body)
	_ = response.Body.Close()
	if err == nil && response.StatusCode >= http.StatusMultipleChoices {
		err = fmt.Errorf("%s %s: %s: %s", method, place, response.Status, text)
	}
	return response, err
}

// blob writes a blob by one request or, where the registry wants that, by two.
func (f *imageFiller) blob(mediaType string, content []byte) (ocispec.Descriptor, error) {
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(content), Size: int64(len(content))}
	const octets = "application/octet-stream"
	first := content
	if len(first) > 4<<10 {
		first = nil
	}
	query := "?digest=" + d.Digest.String()
	if first == nil {
		query = ""
	}
	response, err := f.send(http.MethodPost, f.root+"/blobs/uploads/"+query, octets, first)
	if err != nil || response.StatusCode == http.StatusCreated {
		return d, err
	}
	place, err := response.Location()
	if err != nil {
		return d, err
	}
	values := place.Query()
	values.Set("digest", d.Digest.String())
	place.RawQuery = values.Encode()
	_, err = f.send(http.MethodPut, place.String(), octets, content)
	return d, err
}

// layer writes a layer that is compressed, as its kind says, and no smaller by it.
func (f *imageFiller) layer(size int) (ocispec.Descriptor, error) {
	var content bytes.Buffer
	w, err := gzip.NewWriterLevel(&content, gzip.NoCompression)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	_, err = io.CopyN(w, rand.Reader, int64(size))
	if err := errors.Join(err, w.Close()); err != nil {
		return ocispec.Descriptor{}, err
	}
	return f.blob(ocispec.MediaTypeImageLayerGzip, content.Bytes())
}

// image writes an image of layers that are there, with a config of its own.
func (f *imageFiller) image(tag string, created time.Time, layers ...ocispec.Descriptor) error {
	config := ocispec.Image{
		Created: &created, Author: tag, Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"},
		RootFS: ocispec.RootFS{Type: "layers"},
	}
	for _, layer := range layers {
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, layer.Digest) // as of layers that are not compressed
		config.History = append(config.History, ocispec.History{Created: &created, CreatedBy: "COPY . / # buildkit"})
	}
	text, err := json.Marshal(config)
	if err != nil {
		return err
	}
	c, err := f.blob(ocispec.MediaTypeImageConfig, text)
	if err != nil {
		return err
	}
	raw, err := json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: c, Layers: layers,
	})
	if err != nil {
		return err
	}
	_, err = f.send(http.MethodPut, f.root+"/manifests/"+tag, ocispec.MediaTypeImageManifest, raw)
	return err
}

// tags fills a repository with images of three layers that all share, and says how
// long that took. The first is the oldest; an hour is between two.
func (f *imageFiller) tags(n int) ([]string, time.Duration) {
	f.b.Helper()
	began := time.Now()
	var layers []ocispec.Descriptor
	for range 3 {
		layer, err := f.layer(1 << 10)
		if err != nil {
			f.b.Fatal(err)
		}
		layers = append(layers, layer)
	}
	names := make([]string, n)
	newest := time.Now().Truncate(time.Second).Add(-48 * time.Hour)
	atOnceEach(f.b, n, 8, func(i int) error {
		names[i] = fmt.Sprintf("build-%05d", i)
		return f.image(names[i], newest.Add(time.Duration(i-n)*time.Hour), layers...)
	})
	return names, time.Since(began)
}

// writeLogin writes a config.json with one login.
func writeLogin(b *testing.B, host, username, password string) string {
	b.Helper()
	text, err := json.Marshal(map[string]any{"auths": map[string]any{host: map[string][]byte{"auth": []byte(username + ":" + password)}}})
	if err != nil {
		b.Fatal(err)
	}
	path := filepath.Join(b.TempDir(), "config.json")
	writeText(b, path, string(text))
	return path
}

// tell writes for people. What a benchmark logs is cut off after ten lines.
func tell(b *testing.B, format string, args ...any) {
	fmt.Fprintf(os.Stderr, b.Name()+": "+format+"\n", args...)
}
