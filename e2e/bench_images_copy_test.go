package e2e_test

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/e2e/peers/commands"
	"github.com/regkeeper/regkeeper/e2e/peers/distribution"
	"github.com/regkeeper/regkeeper/image"
	"github.com/regkeeper/regkeeper/internal/imagecache"
	"github.com/regkeeper/regkeeper/lifecycle"
)

const (
	copiedImages = 30
	copiedLayer  = 16 << 20
	copiedPath   = "team/app"
)

// freight is images to copy, and where they are.
type freight struct {
	b    *testing.B
	host string
	tags []string
	// blobs are the layers, each once; bytes is what they have in sum.
	blobs []ocispec.Descriptor
	bytes int64
}

// loadFreight pushes images of a layer of 16 MiB each, and three of 3 MiB that all
// share.
func loadFreight(b *testing.B, host string) *freight {
	b.Helper()
	f := &freight{b: b, host: host}
	fill := fillerOf(b, host, copiedPath, "", "")
	layer := func(size int) ocispec.Descriptor {
		d, err := fill.layer(size)
		if err != nil {
			b.Fatal(err)
		}
		f.blobs, f.bytes = append(f.blobs, d), f.bytes+d.Size
		return d
	}
	base := []ocispec.Descriptor{layer(3 << 20), layer(3 << 20), layer(3 << 20)}
	for i := range copiedImages {
		tag := fmt.Sprintf("build-%02d", i)
		if err := fill.image(tag, time.Now().Add(-time.Hour), append(base[:3:3], layer(copiedLayer))...); err != nil {
			b.Fatal(err)
		}
		f.tags = append(f.tags, tag)
	}
	return f
}

// berth is an empty registry for one copy of everything.
type berth struct {
	host               string
	username, password string
	config             string // a config.json with the login; empty for none
	end                func()
}

func berthAtDistribution(b *testing.B) berth {
	server := distribution.Start(b, distribution.Options{V3: true})
	return berth{host: server.Host, end: func() {
		server.Stop()
		if err := os.RemoveAll(server.Storage); err != nil {
			b.Fatal(err)
		}
	}}
}

// berthAtEmbedded is the embedded registry, in this process.
func berthAtEmbedded(b *testing.B) berth {
	data := b.TempDir()
	served := serveEmbedded(b, data)
	to := berth{host: served.host, username: served.pusher.Username, password: served.pusher.Password, end: func() {
		if err := os.RemoveAll(filepath.Join(data, "registry")); err != nil {
			b.Fatal(err)
		}
	}}
	to.config = writeLogin(b, to.host, to.username, to.password)
	return to
}

// carrier copies all images; open makes one that has copied nothing yet.
type carrier struct {
	name string
	open func(to berth) func(from, to string) error
}

// The contenders whose ratios are figures.
const (
	byMirror    = "regkeeper mirror run"
	byCopier    = "lifecycle.Copier, 4 images at once"
	byLoop      = "regkeeper image copy, loop"
	byCrane     = "crane copy -a -j 4"
	byCraneLoop = "crane copy, loop"
)

// mirrorConfig is a configuration with one mirror. Who asks for no login is shown
// one all the same: a configuration names logins.
func mirrorConfig(from, to, username string) string {
	return fmt.Sprintf(`
registries:
  - {host: %q, source: {static: {username: anybody, password: {env: PASSWORD}}}, verify: false}
  - {host: %q, source: {static: {username: %s, password: {env: PASSWORD}}}, verify: false, scopes: [pull, push]}
mirrors:
  - {name: bench, from: %q, to: [%q]}
`, from, to, cmp.Or(username, "anybody"), from+"/"+copiedPath, to+"/team")
}

// peak is the most that a run of regkeeper held resident, in MiB.
type peak float64

func (f *freight) carriers(most *peak) []carrier {
	b, ctx := f.b, f.b.Context()
	crane, skopeo, oras, regsync := commands.Crane(b), commands.Skopeo(b), commands.Oras(b), commands.Regsync(b)
	// loop runs a command for each image.
	loop := func(c *commands.Command, args ...string) func(berth) func(from, to string) error {
		return func(at berth) func(from, to string) error {
			return func(from, to string) error {
				for _, tag := range f.tags {
					all := append([]string{}, args...)
					for i := range all {
						all[i] = strings.NewReplacer("FROM", from+"/"+copiedPath+":"+tag, "TO", to+"/"+copiedPath+":"+tag).Replace(all[i])
					}
					if _, err := c.Run(ctx, at.config, all...); err != nil {
						return err
					}
				}
				return nil
			}
		}
	}
	return []carrier{
		{byMirror, func(at berth) func(from, to string) error {
			p := newProduct(b, "", "PASSWORD="+cmp.Or(at.password, "none"))
			return func(from, to string) error {
				p.configure(mirrorConfig(from, to, at.username))
				got := p.meter("mirror", "run")
				if got.code != 0 {
					return errors.New(got.err)
				}
				*most = max(*most, peak(got.peak))
				return nil
			}
		}},
		{byCopier, f.copier},
		{byLoop, func(at berth) func(from, to string) error {
			var env []string
			if at.config != "" {
				env = append(env, "DOCKER_CONFIG="+filepath.Dir(at.config))
			}
			p := newProduct(b, "", env...)
			return func(from, to string) error {
				for _, tag := range f.tags {
					got := p.meter("image", "copy", from+"/"+copiedPath+":"+tag, to+"/"+copiedPath)
					if got.code != 0 {
						return errors.New(got.err)
					}
				}
				return nil
			}
		}},
		{byCrane, func(at berth) func(from, to string) error {
			return func(from, to string) error {
				_, err := crane.Run(ctx, at.config, "copy", "--all-tags", "--jobs=4", from+"/"+copiedPath, to+"/"+copiedPath)
				return err
			}
		}},
		{byCraneLoop, loop(crane, "copy", "FROM", "TO")},
		{"regsync, parallel 4", func(at berth) func(from, to string) error {
			return func(from, to string) error {
				text, err := json.Marshal(map[string]any{
					"version":  1,
					"creds":    []any{map[string]any{"registry": from, "tls": "disabled"}, map[string]any{"registry": to, "tls": "disabled", "user": at.username, "pass": at.password}},
					"defaults": map[string]any{"parallel": 4},
					"sync":     []any{map[string]any{"source": from + "/" + copiedPath, "target": to + "/" + copiedPath, "type": "repository"}},
				})
				if err != nil {
					return err
				}
				path := filepath.Join(b.TempDir(), "regsync.yml")
				writeText(b, path, string(text))
				_, err = regsync.Run(ctx, at.config, "once", "--config", path)
				return err
			}
		}},
		{"oras cp, loop", loop(oras, "cp", "--from-plain-http", "--to-plain-http", "FROM", "TO")},
		{"skopeo copy, loop", loop(skopeo, "copy", "--src-tls-verify=false", "--dest-tls-verify=false", "docker://FROM", "docker://TO")},
	}
}

// copier copies in this process.
func (f *freight) copier(at berth) func(from, to string) error {
	cache, err := imagecache.Open(f.b.TempDir())
	if err != nil {
		f.b.Fatal(err)
	}
	return func(from, to string) error {
		c := lifecycle.NewCopier(lifecycle.Copying{Cache: cache})
		source, target := clientOf(from, "", ""), clientOf(to, at.username, at.password)
		atOnceEach(f.b, len(f.tags), 4, func(i int) error {
			ref := image.Reference{Repository: image.Repository{Host: credential.Host(from), Path: copiedPath}, Tag: f.tags[i]}
			_, err := c.Copy(f.b.Context(), source, ref, lifecycle.Place{
				Registry: target, Repository: image.Repository{Host: credential.Host(to), Path: copiedPath}, Tag: f.tags[i],
			})
			return err
		})
		return nil
	}
}

// arrived makes sure that all images are there, as they are at the source.
func (f *freight) arrived(to berth) {
	f.b.Helper()
	source, target := clientOf(f.host, "", ""), clientOf(to.host, to.username, to.password)
	for _, tag := range f.tags {
		want, err := source.Resolve(f.b.Context(), copiedPath, tag)
		if err != nil {
			f.b.Fatal(err)
		}
		if got, err := target.Resolve(f.b.Context(), copiedPath, tag); err != nil || got.Digest != want.Digest {
			f.b.Fatalf("%s is %s, want %s: %v", tag, got.Digest, want.Digest, err)
		}
	}
}

// loopback is how long the source takes to send all blobs to a plain client, four
// at once, which keeps nothing.
func (f *freight) loopback(int) time.Duration {
	f.b.Helper()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 4}}
	began := time.Now()
	atOnceEach(f.b, len(f.blobs), 4, func(i int) error {
		response, err := client.Get("http://" + f.host + "/v2/" + copiedPath + "/blobs/" + f.blobs[i].Digest.String())
		if err != nil {
			return err
		}
		n, err := io.Copy(io.Discard, response.Body)
		if err == nil && n != f.blobs[i].Size {
			err = fmt.Errorf("%d bytes came", n)
		}
		return errors.Join(err, response.Body.Close())
	})
	return time.Since(began)
}

// disk is how long as many files of as many bytes take to be written durably.
func (f *freight) disk(int) time.Duration {
	f.b.Helper()
	folder := f.b.TempDir()
	content := make([]byte, copiedLayer+copiedLayer/16)
	for i := range content {
		content[i] = byte(i * i >> 7)
	}
	began := time.Now()
	for i, blob := range f.blobs {
		file, err := os.Create(filepath.Join(folder, fmt.Sprint(i)))
		if err != nil {
			f.b.Fatal(err)
		}
		_, err = file.Write(content[:blob.Size])
		if err := errors.Join(err, syscall.Fdatasync(int(file.Fd())), file.Close()); err != nil {
			f.b.Fatal(err)
		}
	}
	took := time.Since(began)
	if err := os.RemoveAll(folder); err != nil {
		f.b.Fatal(err)
	}
	return took
}

// BenchmarkCopyImages copies 30 images of 489 MiB in sum into an empty registry,
// and again into the one that has them, against the other commands in the same
// rounds, and against what the disk and the source can do.
func BenchmarkCopyImages(b *testing.B) {
	if _, err := binary(); err != nil {
		b.Fatal(err)
	}
	for _, to := range []struct {
		name string
		open func(*testing.B) berth
	}{{"distribution3", berthAtDistribution}, {"embedded", berthAtEmbedded}} {
		b.Run(to.name, func(b *testing.B) {
			f := loadFreight(b, distribution.Start(b, distribution.Options{V3: true}).Host)
			f.bench(func() berth { return to.open(b) })
		})
	}
}

func (f *freight) bench(open func() berth) {
	b := f.b
	before := machineLoad(b)
	var most peak
	again := map[string][]time.Duration{}
	all := []contender{{"disk", f.disk}, {"loopback", f.loopback}}
	carriers := f.carriers(&most)
	for _, c := range carriers {
		all = append(all, contender{c.name, func(int) time.Duration {
			to := open()
			defer to.end()
			run := c.open(to)
			var took [2]time.Duration
			for i := range took {
				began := time.Now()
				if err := run(f.host, to.host); err != nil {
					b.Fatalf("%s: %v", c.name, err)
				}
				took[i] = time.Since(began)
			}
			f.arrived(to)
			again[c.name] = append(again[c.name], took[1])
			return took[0]
		}})
	}
	took := race(b, all...)

	// Requests are counted apart: a proxy costs time.
	requests := map[string][2]string{}
	for _, c := range carriers {
		to := open()
		source, target := countBefore(b, f.host), countBefore(b, to.host)
		through := to
		through.host = target.host
		if to.config != "" {
			through.config = writeLogin(b, target.host, to.username, to.password)
		}
		run := c.open(through)
		var counts [2]string
		for i := range counts {
			if err := run(source.host, target.host); err != nil {
				b.Fatalf("%s: %v", c.name, err)
			}
			_, out := source.take()
			kinds, in := target.take()
			counts[i] = fmt.Sprintf("%.1f + %.1f", float64(out)/copiedImages, float64(in)/copiedImages)
			if c.name == byMirror {
				tell(b, "requests per image, %s, run %d, to the destination: %s", c.name, i+1, perKind(kinds, copiedImages))
			}
		}
		requests[c.name] = counts
		to.end()
	}

	var t benchTable
	t.row(fmt.Sprintf("%d images, %d MiB", copiedImages, f.bytes>>20), "first", "of crane -j 4", "requests per image, from + to", "again", "of crane -j 4", "requests per image")
	t.row("the disk: fdatasync of as many files", took["disk"], float64(took["disk"])/float64(took[byCrane]))
	t.row("the source: GET of all blobs", took["loopback"], float64(took["loopback"])/float64(took[byCrane]))
	second := map[string]time.Duration{}
	for name, list := range again {
		second[name] = median(list)
	}
	for _, c := range carriers {
		t.row(c.name, took[c.name], float64(took[c.name])/float64(took[byCrane]), requests[c.name][0],
			second[c.name], float64(second[c.name])/float64(second[byCrane]), requests[c.name][1])
	}
	tell(b, "load %.1f to %.1f\n%s", before, machineLoad(b), &t)
	b.ReportMetric(took[byMirror].Seconds(), "s-mirror")
	b.ReportMetric(float64(took[byMirror])/float64(took[byCrane]), "x-crane-j4")
	b.ReportMetric(float64(took[byCopier])/float64(took[byCrane]), "copier-x-crane-j4")
	b.ReportMetric(float64(took[byLoop])/float64(took[byCraneLoop]), "loop-x-crane-loop")
	b.ReportMetric(float64(second[byMirror])/float64(second[byCrane]), "again-x-crane-j4")
	b.ReportMetric(float64(took[byMirror])/float64(took["loopback"]), "x-loopback")
	b.ReportMetric(float64(most), "MiB-peak")
	b.ReportMetric(0, "ns/op")
}
