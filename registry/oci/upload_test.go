package oci_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/regkeeper/regkeeper/image"
	"github.com/regkeeper/regkeeper/internal/testkit/fakeregistry"
	"github.com/regkeeper/regkeeper/problem"
	"github.com/regkeeper/regkeeper/registry/oci"
)

const mib = 1 << 20

// randomly is content.
func randomly(size int) []byte {
	raw := make([]byte, size)
	_, _ = rand.Read(raw)
	return raw
}

// cut is how the connection of a PATCH ends.
type cut struct{ after, lost int64 }

// cutting cuts the first PATCHes so; where after is zero, that one is not cut.
func cutting(cuts ...cut) func(*http.Request) (int64, int64, bool) {
	var n atomic.Int32
	return func(r *http.Request) (int64, int64, bool) {
		if r.Method != http.MethodPatch {
			return 0, 0, false
		}
		i := int(n.Add(1)) - 1
		if i >= len(cuts) || cuts[i].after == 0 {
			return 0, 0, false
		}
		return cuts[i].after, cuts[i].lost, true
	}
}

// refusing answers requests of a method in place of a registry: those from one on
// and before another.
func refusing(method string, from, before int32, status int) func(http.ResponseWriter, *http.Request) bool {
	var n atomic.Int32
	return func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != method || !strings.Contains(r.URL.Path, "/uploads/") {
			return false
		}
		i := n.Add(1)
		if i < from || i >= before {
			return false
		}
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(status)
		return true
	}
}

// methods are those of the requests that a fake has got of uploads.
func methods(fake *fakeregistry.Registry) string {
	var all []string
	for _, request := range fake.Requests() {
		if method, _, _ := strings.Cut(request, " "); strings.Contains(request, "/uploads/") {
			all = append(all, method)
		}
	}
	return strings.Join(all, " ")
}

// holds wants a repository to have a blob.
func holds(t interface{ Errorf(string, ...any) }, registry *oci.Registry, raw []byte) {
	body, err := registry.Blob(context.Background(), "team/api", blobOf(raw).Digest)
	if err != nil {
		t.Errorf("the blob was sent, and is not there: %v", err)
		return
	}
	defer func() { _ = body.Close() }()
	if got, err := io.ReadAll(body); err != nil || !bytes.Equal(got, raw) {
		t.Errorf("the blob has %d bytes, %v", len(got), err)
	}
}

func TestACutUploadGoesOn(t *testing.T) {
	t.Parallel()
	const size = 5 * mib
	const most = size * 9 / 10
	const once = "POST PATCH GET PATCH PUT"
	raw := randomly(size)
	arrives := func(told func(arrived int) int) func(int) int {
		return func(arrived int) int {
			if arrived == 0 || arrived == size {
				return arrived
			}
			return told(arrived)
		}
	}
	for name, test := range map[string]struct {
		config func() fakeregistry.Config
		opened int   // of a source that cannot go back
		sent   int64 // bytes
		asked  string
	}{
		"at nine tenths": {func() fakeregistry.Config { return fakeregistry.Config{Cut: cutting(cut{most, 0})} }, 1, size, once},
		"with what was on its way": {
			func() fakeregistry.Config { return fakeregistry.Config{Cut: cutting(cut{most, 2 * mib})} }, 2, size + 2*mib, once,
		},
		"when all was read": {
			func() fakeregistry.Config {
				return fakeregistry.Config{Cut: cutting(cut{size + 1, 2 * mib})}
			}, 2, size + 2*mib, once,
		},
		"at its end": {func() fakeregistry.Config { return fakeregistry.Config{Cut: cutting(cut{size, 0})} }, 1, size, "POST PATCH GET PUT"},
		"four times": {
			func() fakeregistry.Config {
				return fakeregistry.Config{Cut: cutting(cut{2 * mib, 1}, cut{mib / 2, 2}, cut{mib / 2, 3}, cut{mib / 2, 4})}
			}, 5, size + 10,
			"POST PATCH GET PATCH GET PATCH GET PATCH GET PATCH PUT",
		},
		"at its beginning": {
			func() fakeregistry.Config { return fakeregistry.Config{Cut: cutting(cut{mib / 2, 0})} }, 2, size + mib/2, "POST PATCH DELETE POST PATCH PUT",
		},
		"and the registry is away": {
			func() fakeregistry.Config {
				return fakeregistry.Config{Cut: cutting(cut{most, 0}), Before: refusing(http.MethodGet, 1, 4, 503)}
			}, 1, size,
			"POST PATCH GET GET GET GET PATCH PUT",
		},
		"and then the answer to its end": {
			func() fakeregistry.Config {
				return fakeregistry.Config{Cut: cutting(cut{most, 0}), Before: refusing(http.MethodPut, 1, 2, 502)}
			}, 1, size,
			once + " GET PUT",
		},
		"goes on, and then the registry is away": {
			func() fakeregistry.Config {
				return fakeregistry.Config{
					Cut:    cutting(cut{2 * mib, 0}, cut{2 * mib, 0}, cut{4 * mib, 0}, cut{4 * mib, 0}),
					Before: refusing(http.MethodGet, 2, 6, 503),
				}
			}, 2, size + 4*mib,
			"POST PATCH GET PATCH GET GET GET GET DELETE POST PATCH GET PATCH GET PUT",
		},
		"goes on, and then the registry begins anew": {
			func() fakeregistry.Config {
				return fakeregistry.Config{
					Cut:    cutting(cut{2 * mib, 0}, cut{2 * mib, 0}, cut{4 * mib, 0}, cut{4 * mib, 0}),
					Before: refusing(http.MethodGet, 2, 3, 404),
				}
			}, 2, size + 4*mib,
			"POST PATCH GET PATCH GET DELETE POST PATCH GET PATCH GET PUT",
		},

		"of a registry that forgets": {
			func() fakeregistry.Config { return fakeregistry.Config{Cut: cutting(cut{most, 0}), NoResume: true} }, 2, size + most,
			"POST PATCH GET DELETE POST PATCH PUT",
		},
		"of a registry that does not tell": {
			func() fakeregistry.Config {
				return fakeregistry.Config{Cut: cutting(cut{most, 0}), Before: refusing(http.MethodGet, 1, 2, 405)}
			}, 2, size + most,
			"POST PATCH GET DELETE POST PATCH PUT",
		},
		"of a registry that tells of nothing": {
			func() fakeregistry.Config {
				return fakeregistry.Config{Cut: cutting(cut{most, 0}), Standing: arrives(func(int) int { return 0 })}
			}, 2, size + most,
			"POST PATCH GET DELETE POST PATCH PUT",
		},
		"of a registry that tells of more than was sent": {
			func() fakeregistry.Config {
				return fakeregistry.Config{Cut: cutting(cut{most, 0}), Standing: arrives(func(n int) int { return n + 10 })}
			}, 2, size + most,
			"POST PATCH GET DELETE POST PATCH PUT",
		},
		"of a registry that tells of more than there is": {
			func() fakeregistry.Config {
				return fakeregistry.Config{Cut: cutting(cut{most, 0}), Standing: arrives(func(int) int { return 6 * mib })}
			}, 2, size + most,
			"POST PATCH GET DELETE POST PATCH PUT",
		},
		"of a registry that loses the place": {
			func() fakeregistry.Config {
				return fakeregistry.Config{Cut: cutting(cut{most, 0}), NoRanges: true, Standing: arrives(func(n int) int { return n - 10 })}
			},
			3, 2*size + 10, once + " DELETE POST PATCH PUT",
		},
		"of a registry that refuses the place it told": {
			func() fakeregistry.Config {
				return fakeregistry.Config{Cut: cutting(cut{most, 0}), Standing: arrives(func(n int) int { return n - 10 })}
			},
			3, 2*size + 10, "POST PATCH GET PATCH GET DELETE POST PATCH PUT",
		},
		"of a registry that goes back": {
			func() fakeregistry.Config {
				return fakeregistry.Config{
					Cut: cutting(cut{3 * mib, 0}, cut{mib, 0}), NoRanges: true,
					Standing: arrives(func(n int) int { return min(n, 6*mib-n) }),
				}
			},
			2, size + 4*mib, "POST PATCH GET PATCH GET DELETE POST PATCH PUT",
		},
		"of a registry that refuses the rest": {
			func() fakeregistry.Config {
				return fakeregistry.Config{Cut: cutting(cut{most, 0}), Before: refusing(http.MethodPatch, 2, 3, 403)}
			}, 2, size + most,
			"POST PATCH GET PATCH DELETE POST PATCH PUT",
		},
		// Who could not go on is not asked to a second time.
		"of a registry that refuses the rest, again": {
			func() fakeregistry.Config {
				return fakeregistry.Config{Cut: cutting(cut{most, 0}, cut{most, 0}), Before: refusing(http.MethodPatch, 2, 3, 403)}
			}, 3, size + 2*most,
			"POST PATCH GET PATCH DELETE POST PATCH DELETE POST PATCH PUT",
		},
		"of a registry that loses the place, again": {
			func() fakeregistry.Config {
				return fakeregistry.Config{
					Cut:      cutting(cut{most, 0}, cut{}, cut{most, 0}),
					NoRanges: true, Standing: arrives(func(n int) int { return n - 10 }),
				}
			},
			4, 2*size + 10 + most, once + " DELETE POST PATCH DELETE POST PATCH PUT",
		},
	} {
		for _, seeks := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, seeks %v", name, seeks), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					fake := fakeregistry.New(test.config())
					registry := apart(fake, nil)
					opened, want := 0, test.opened
					if seeks {
						want = strings.Count(test.asked, "POST")
					}
					got, err := registry.WriteBlob(t.Context(), "team/api", blobOf(raw), "", func(context.Context) (io.ReadCloser, error) {
						opened++
						if seeks {
							return seekable{bytes.NewReader(raw)}, nil
						}
						return io.NopCloser(bytes.NewReader(raw)), nil
					})
					if err != nil || got != image.Uploaded {
						t.Fatalf("the blob was %q, %v", got, err)
					}
					if diff := gocmp.Diff(test.asked, methods(fake)); diff != "" {
						t.Errorf("requests (-want +got):\n%s", diff)
					}
					if sent := fake.Received(); sent != test.sent || opened != want {
						t.Errorf("%d bytes were sent, and the blob was opened %d times; want %d and %d", sent, opened, test.sent, want)
					}
					if n := fake.Uploads(); n != 0 {
						t.Errorf("%d uploads are open", n)
					}
					holds(t, registry, raw)
				})
			})
		}
	}
}

// seekable is a source that can go back.
type seekable struct{ io.ReadSeeker }

func (seekable) Close() error { return nil }

// TestManyCuts has an upload cut more often than it may be without much coming in
// between.
func TestManyCuts(t *testing.T) {
	t.Parallel()
	few, much := cut{mib, 0}, cut{8 * mib, 0}
	raw := randomly(20 * mib)
	for name, test := range map[string]struct {
		cuts []cut
		sent int64
	}{
		"with much in between": {[]cut{few, few, few, few, much, few, few, few, few, few}, 20 * mib},
		"with little":          {[]cut{few, few, few, few, few, few}, 26 * mib},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				fake := fakeregistry.New(fakeregistry.Config{Cut: cutting(test.cuts...)})
				registry := apart(fake, nil)
				began := time.Now()
				_, err := registry.WriteBlob(t.Context(), "team/api", blobOf(raw), "", reading(raw))
				if err != nil {
					t.Error(err)
				}
				if sent := fake.Received(); sent != test.sent {
					t.Errorf("%d bytes were sent, want %d", sent, test.sent)
				}
				if took := time.Since(began); took > 2*time.Minute {
					t.Errorf("it took %s", took)
				}
			})
		})
	}
}

// A source that is read again, and has become another, is not the blob, whatever
// the registry says of it.
func TestWhatChangedIsNotSentOn(t *testing.T) {
	t.Parallel()
	raw := randomly(6 * mib)
	other := bytes.Clone(raw)
	other[4*mib+5]++
	for name, changed := range map[string][]byte{"other": other, "short": raw[:3*mib], "a little short": raw[:len(raw)-1], "long": append(bytes.Clone(raw), 'x')} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				fake := fakeregistry.New(fakeregistry.Config{Cut: cutting(cut{5 * mib, mib}), Before: func(w http.ResponseWriter, r *http.Request) bool {
					if r.Method == http.MethodPut {
						w.WriteHeader(http.StatusCreated)
					}
					return r.Method == http.MethodPut
				}})
				opened := 0
				_, err := apart(fake, nil).WriteBlob(t.Context(), "team/api", blobOf(raw), "", func(ctx context.Context) (io.ReadCloser, error) {
					if opened++; opened > 1 {
						return reading(changed)(ctx)
					}
					return reading(raw)(ctx)
				})
				want(t, err, problem.Damaged, "")
				if asked := methods(fake); strings.Contains(asked, "PUT") || strings.Count(asked, "POST") != 1 || opened != 2 || fake.Uploads() != 0 {
					t.Errorf("it was read %d times, requests %s, and %d uploads are open", opened, asked, fake.Uploads())
				}
			})
		})
	}
}

// What a source that goes back gives a second time is the registry's to verify.
func TestWhatIsReadAgainIsVerified(t *testing.T) {
	t.Parallel()
	raw := randomly(6 * mib)
	other := bytes.Clone(raw)
	other[4*mib+5]++
	synctest.Test(t, func(t *testing.T) {
		fake := fakeregistry.New(fakeregistry.Config{Cut: cutting(cut{5 * mib, mib})})
		opened := 0
		_, err := apart(fake, nil).WriteBlob(t.Context(), "team/api", blobOf(raw), "", func(context.Context) (io.ReadCloser, error) {
			opened++
			first := raw
			if opened > 1 {
				first = other
			}
			return &changing{bytes.NewReader(first), bytes.NewReader(other)}, nil
		})
		want(t, err, problem.Damaged, "")
		if asked := methods(fake); asked != "POST PATCH GET PATCH PUT DELETE POST PATCH DELETE" || opened != 2 {
			t.Errorf("it was opened %d times, requests %s", opened, asked)
		}
	})
}

// changing is another source once it went back.
type changing struct {
	*bytes.Reader
	then *bytes.Reader
}

func (c *changing) Seek(offset int64, whence int) (int64, error) {
	c.Reader = c.then
	return c.Reader.Seek(offset, whence)
}

func (c *changing) Close() error { return nil }

// TestACutCopyReadsOnlyTheRestAgain copies a blob from one registry to another.
func TestACutCopyReadsOnlyTheRestAgain(t *testing.T) {
	t.Parallel()
	raw := randomly(5 * mib)
	b := blobOf(raw)
	synctest.Test(t, func(t *testing.T) {
		var ranges []string
		source := fakeregistry.New(fakeregistry.Config{Before: func(_ http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/sha256:") {
				ranges = append(ranges, r.Header.Get("Range"))
			}
			return false
		}})
		from := apart(source, nil)
		if _, err := from.WriteBlob(t.Context(), "team/api", b, "", reading(raw)); err != nil {
			t.Fatal(err)
		}
		fake := fakeregistry.New(fakeregistry.Config{Cut: cutting(cut{4 * mib, mib}, cut{2 * mib, mib / 2})})
		to := apart(fake, nil)
		if _, err := to.WriteBlob(t.Context(), "team/api", b, "", func(ctx context.Context) (io.ReadCloser, error) {
			return from.Blob(ctx, "team/api", b.Digest)
		}); err != nil {
			t.Fatal(err)
		}
		holds(t, to, raw)
		if diff := gocmp.Diff([]string{"", fmt.Sprintf("bytes=%d-", 3*mib), fmt.Sprintf("bytes=%d-", 4*mib+mib/2)}, ranges); diff != "" {
			t.Errorf("ranges that were read (-want +got):\n%s", diff)
		}
	})
}

// A blob that was read goes back, and is the same.
func TestABlobGoesBack(t *testing.T) {
	t.Parallel()
	raw := randomly(100_000)
	registry := apart(fakeregistry.New(fakeregistry.Config{}), nil)
	if _, err := registry.WriteBlob(t.Context(), "team/api", blobOf(raw), "", reading(raw)); err != nil {
		t.Fatal(err)
	}
	body, err := registry.Blob(t.Context(), "team/api", blobOf(raw).Digest)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = body.Close() }()
	seeker, ok := body.(io.Seeker)
	if !ok {
		t.Fatal("it does not go back")
	}
	if _, err := seeker.Seek(10, io.SeekStart); err == nil {
		t.Error("it goes to what was not read, and so not verified")
	}
	first := make([]byte, 50_000)
	if _, err := io.ReadFull(body, first); err != nil {
		t.Fatal(err)
	}
	for _, back := range []int64{49_999, 50_000, 7, 99_999, 0} {
		if _, err := seeker.Seek(back, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(body); err != nil || !bytes.Equal(got, raw[back:]) {
			t.Errorf("from byte %d on came %d bytes, %v", back, len(got), err)
		}
	}
}

// A source that fails, or from which nothing comes any more, is read again, and
// what has arrived is not sent again.
func TestAnUploadGoesOnWithASourceThatFailed(t *testing.T) {
	t.Parallel()
	raw := randomly(4 * mib)
	for name, end := range map[string]func(context.Context) io.Reader{
		"failed":       func(context.Context) io.Reader { return readerFunc(fails) },
		"stands still": func(ctx context.Context) io.Reader { return after{ctx, nil} },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				fake := fakeregistry.New(fakeregistry.Config{})
				registry := apart(fake, nil)
				opened := 0
				got, err := registry.WriteBlob(t.Context(), "team/api", blobOf(raw), "", func(ctx context.Context) (io.ReadCloser, error) {
					opened++
					switch opened {
					case 1:
						return under(ctx, io.MultiReader(bytes.NewReader(raw[:3*mib]), end(ctx)))
					case 2: // ends in what is read over
						return under(ctx, io.MultiReader(bytes.NewReader(raw[:2*mib]), readerFunc(fails)))
					}
					return under(ctx, bytes.NewReader(raw))
				})
				if err != nil || got != image.Uploaded || opened != 3 || fake.Received() != int64(len(raw)) {
					t.Fatalf("the blob was %q, %v, read %d times, %d bytes sent", got, err, opened, fake.Received())
				}
				holds(t, registry, raw)
			})
		})
	}
}

// under reads under a context: it ends with it.
func under(ctx context.Context, source io.Reader) (io.ReadCloser, error) {
	return io.NopCloser(readerFunc(func(p []byte) (int, error) {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		return source.Read(p)
	})), ctx.Err()
}

// A connection breaks while its transport waits for the source. The source is
// told to end, and opened again.
func TestASourceThatHoldsUpTheNextRequestIsEnded(t *testing.T) {
	t.Parallel()
	raw := randomly(4 * mib)
	synctest.Test(t, func(t *testing.T) {
		fake := fakeregistry.New(fakeregistry.Config{})
		var patches atomic.Int32
		reads := roundTrip(func(r *http.Request) (*http.Response, error) {
			if r.Method != http.MethodPatch || patches.Add(1) > 1 {
				return fake.RoundTrip(r)
			}
			part := r.Clone(r.Context())
			part.Body = io.NopCloser(io.MultiReader(io.LimitReader(r.Body, 2*mib), readerFunc(fails)))
			response, err := fake.RoundTrip(part)
			go func() { _, _ = r.Body.Read(make([]byte, 1)) }()
			return response, err
		})
		opened, began := 0, time.Now()
		registry := apart(reads, nil)
		_, err := registry.WriteBlob(t.Context(), "team/api", blobOf(raw), "", func(ctx context.Context) (io.ReadCloser, error) {
			if opened++; opened == 1 {
				return under(ctx, io.MultiReader(bytes.NewReader(raw[:2*mib]), after{ctx, nil}))
			}
			return under(ctx, bytes.NewReader(raw))
		})
		if err != nil {
			t.Fatal(err)
		}
		if sent, took := fake.Received(), time.Since(began); opened != 2 || sent != int64(len(raw)) || took > time.Minute {
			t.Errorf("it was read %d times, %d bytes were sent, and it took %s", opened, sent, took)
		}
		holds(t, registry, raw)
	})
}

// All was sent, and the answer lost. When the registry is asked first, a proxy has
// handed on a part; the rest comes before it is sent again.
func TestWhatArrivesLateIsNotDamaged(t *testing.T) {
	t.Parallel()
	raw := randomly(6 * mib)
	for name, test := range map[string]struct {
		open   func(context.Context) (io.ReadCloser, error)
		opened int
	}{
		"read again":    {reading(raw), 2},
		"which seeks":   {func(context.Context) (io.ReadCloser, error) { return seekable{bytes.NewReader(raw)}, nil }, 1},
		"fails at last": {nil, 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				fake := fakeregistry.New(fakeregistry.Config{})
				var patches, gets atomic.Int32
				proxy := roundTrip(func(r *http.Request) (*http.Response, error) {
					if r.Method == http.MethodPatch && patches.Add(1) > 1 {
						// At once: the body is not read.
						return &http.Response{StatusCode: http.StatusRequestedRangeNotSatisfiable, Request: r, Header: http.Header{}, Body: http.NoBody}, nil
					}
					response, err := fake.RoundTrip(r)
					if err != nil {
						return nil, err
					}
					if r.Method == http.MethodPatch {
						return nil, io.ErrUnexpectedEOF
					}
					if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/uploads/") && gets.Add(1) == 1 {
						response.Header.Set("Range", fmt.Sprintf("0-%d", 3*mib-1))
					}
					return response, nil
				})
				registry, opened := apart(proxy, nil), 0
				got, err := registry.WriteBlob(t.Context(), "team/api", blobOf(raw), "", func(ctx context.Context) (io.ReadCloser, error) {
					opened++
					switch {
					case test.open != nil:
						return test.open(ctx)
					case opened == 2:
						return io.NopCloser(io.MultiReader(bytes.NewReader(raw[:4*mib]), readerFunc(fails))), nil
					}
					return reading(raw)(ctx)
				})
				if err != nil || got != image.Uploaded || opened != test.opened || fake.Received() != int64(len(raw)) {
					t.Fatalf("the blob was %q, %v, read %d times, %d bytes sent", got, err, opened, fake.Received())
				}
				holds(t, registry, raw)
			})
		})
	}
}

// TestStandstillsAreBounded has a registry that takes a part of each request, and
// stands still where there is more.
func TestStandstillsAreBounded(t *testing.T) {
	t.Parallel()
	raw := randomly(20 * mib)
	for name, more := range map[string]int64{"it takes no more": 0, "it takes a little of each": 2 * mib, "it takes much of each": 9 * mib} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				fake := fakeregistry.New(fakeregistry.Config{Cut: func(r *http.Request) (int64, int64, bool) {
					if r.Header.Get("Content-Range") == "" {
						return 2 * mib, 0, r.Method == http.MethodPatch
					}
					return more, 0, r.Method == http.MethodPatch && r.ContentLength > more
				}})
				stands := roundTrip(func(r *http.Request) (*http.Response, error) {
					response, err := fake.RoundTrip(r)
					if r.Method == http.MethodPatch && err != nil {
						<-r.Context().Done()
						return nil, r.Context().Err()
					}
					return response, err
				})
				began := time.Now()
				_, err := apart(stands, nil).WriteBlob(t.Context(), "team/api", blobOf(raw), "", reading(raw))
				if took := time.Since(began); took > 26*time.Minute {
					t.Errorf("it took %s", took)
				}
				if more < 9*mib {
					want(t, err, problem.Unreachable, "")
				} else if err != nil {
					t.Error(err)
				}
				if n := fake.Uploads(); n != 0 {
					t.Errorf("%d uploads are open", n)
				}
			})
		})
	}
}

func fails([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// The place of an upload may have a key in it.
func TestNoPlaceOfAnUploadIsInAnError(t *testing.T) {
	t.Parallel()
	raw := randomly(3 * mib)
	for name, config := range map[string]fakeregistry.Config{
		"always cut": {
			Cut: func(r *http.Request) (int64, int64, bool) { return 2 * mib, mib, r.Method == http.MethodPatch }, NoRanges: true,
			Standing: func(int) int { return mib },
		},
		"cut and gone": {
			Cut:    func(r *http.Request) (int64, int64, bool) { return 2 * mib, 0, r.Method == http.MethodPatch },
			Before: refusing(http.MethodGet, 1, 1000, 500),
		},
		"no end": {Cut: func(r *http.Request) (int64, int64, bool) { return 0, 0, r.Method == http.MethodPut }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				fake := fakeregistry.New(config)
				keyed := roundTrip(func(r *http.Request) (*http.Response, error) {
					response, err := fake.RoundTrip(r)
					if err != nil {
						return nil, fmt.Errorf("%s %s: %w", r.Method, r.URL, err)
					}
					if place := response.Header.Get("Location"); place != "" {
						response.Header.Set("Location", place+"?_state=hunter2-place")
					}
					return response, nil
				})
				_, err := apart(keyed, nil).WriteBlob(t.Context(), "team/api", blobOf(raw), "", reading(raw))
				want(t, err, problem.Unreachable, "")
				if strings.Contains(err.Error(), "hunter2") {
					t.Errorf("the error has the key: %v", err)
				}
			})
		})
	}
}

// TestAnUploadThatIsCutOnTheWire is cut while HTTP's own transport sends it, which
// may read on for a while.
func TestAnUploadThatIsCutOnTheWire(t *testing.T) {
	t.Parallel()
	raw := randomly(12 * mib)
	fake := fakeregistry.New(fakeregistry.Config{Cut: cutting(cut{10 * mib, 0})})
	registry := client(served(t, fake), nil)
	if _, err := registry.WriteBlob(t.Context(), "team/api", blobOf(raw), "", reading(raw)); err != nil {
		t.Fatal(err)
	}
	if asked, sent := methods(fake), fake.Received(); asked != "POST PATCH GET PATCH PUT" || sent != int64(len(raw)) {
		t.Errorf("%d bytes came, by %s", sent, asked)
	}
	holds(t, registry, raw)
}

// A transport may read the body of a request that failed after it said so. It
// takes nothing from the next one.
func TestARequestThatFailedReadsNoMore(t *testing.T) {
	t.Parallel()
	raw := randomly(4 * mib)
	synctest.Test(t, func(t *testing.T) {
		fake := fakeregistry.New(fakeregistry.Config{Cut: cutting(cut{2 * mib, 0})})
		var before io.Reader
		late := roundTrip(func(r *http.Request) (*http.Response, error) {
			if r.Method == http.MethodPatch {
				if before != nil {
					if n, err := before.Read(make([]byte, 10)); n != 0 || err == nil {
						t.Errorf("it read %d bytes, %v", n, err)
					}
				}
				before = r.Body
			}
			return fake.RoundTrip(r)
		})
		if _, err := apart(late, nil).WriteBlob(t.Context(), "team/api", blobOf(raw), "", reading(raw)); err != nil {
			t.Fatal(err)
		}
		if asked, sent := methods(fake), fake.Received(); asked != "POST PATCH GET PATCH PUT" || sent != int64(len(raw)) {
			t.Errorf("%d bytes came, by %s", sent, asked)
		}
	})
}

// An upload of which the answer was lost has ended.
func TestAnUploadThatEndedIsNotSentAgain(t *testing.T) {
	t.Parallel()
	raw := randomly(2 * mib)
	synctest.Test(t, func(t *testing.T) {
		fake := fakeregistry.New(fakeregistry.Config{})
		loses := roundTrip(func(r *http.Request) (*http.Response, error) {
			response, err := fake.RoundTrip(r)
			if r.Method == http.MethodPut {
				return nil, io.ErrUnexpectedEOF
			}
			return response, err
		})
		got, err := apart(loses, nil).WriteBlob(t.Context(), "team/api", blobOf(raw), "", reading(raw))
		if err != nil || got != image.Uploaded {
			t.Fatalf("the blob was %q, %v", got, err)
		}
		if asked := methods(fake); asked != "POST PATCH PUT DELETE" {
			t.Errorf("requests %s", asked)
		}
	})
}

// Somebody else sends a blob while its upload is cut: the upload is ended.
func TestAnUploadOfWhatIsThereIsEnded(t *testing.T) {
	t.Parallel()
	raw := randomly(2 * mib)
	synctest.Test(t, func(t *testing.T) {
		fake := fakeregistry.New(fakeregistry.Config{Cut: cutting(cut{2 * mib, 10})})
		meanwhile := roundTrip(func(r *http.Request) (*http.Response, error) {
			response, err := fake.RoundTrip(r)
			if r.Method == http.MethodPatch && err != nil {
				if _, err := apart(fake, nil).WriteBlob(t.Context(), "team/api", blobOf(raw), "", reading(raw)); err != nil {
					t.Error(err)
				}
			}
			return response, err
		})
		got, err := apart(meanwhile, nil).WriteBlob(t.Context(), "team/api", blobOf(raw), "", reading(raw))
		if err != nil || got != image.Uploaded {
			t.Fatalf("the blob was %q, %v", got, err)
		}
		if n := fake.Uploads(); n != 0 {
			t.Errorf("%d uploads are open, after %s", n, methods(fake))
		}
	})
}

// TestUploadsArriveOrFail has registries of every kind, and connections that break
// anywhere: a blob is there and right, or there is an error.
func TestUploadsArriveOrFail(t *testing.T) {
	t.Parallel()
	all := randomly(3 * mib)
	rapid.Check(t, func(r *rapid.T) {
		raw := all[:rapid.IntRange(0, len(all)).Draw(r, "size")]
		size := int64(len(raw))
		var cuts []cut
		var lost int64
		for range rapid.IntRange(0, 9).Draw(r, "cuts") {
			c := cut{after: rapid.Int64Range(0, size).Draw(r, "after")}
			c.lost = rapid.Int64Range(0, c.after).Draw(r, "lost")
			cuts, lost = append(cuts, c), lost+c.lost
		}
		seeks := rapid.Bool().Draw(r, "source seeks")
		lies, off := rapid.Bool().Draw(r, "lies"), rapid.IntRange(-2*mib, 2*mib).Draw(r, "off")
		config := fakeregistry.Config{
			Cut: cutting(cuts...), NoResume: rapid.Bool().Draw(r, "forgets"), NoRanges: lies && rapid.Bool().Draw(r, "takes everything"),
		}
		if lies {
			config.Standing = func(arrived int) int { return max(arrived+off, 0) }
		}
		synctest.Test(t, func(t *testing.T) {
			fake := fakeregistry.New(config)
			registry := apart(fake, nil)
			_, err := registry.WriteBlob(t.Context(), "team/api", blobOf(raw), "", func(ctx context.Context) (io.ReadCloser, error) {
				if seeks {
					return seekable{bytes.NewReader(raw)}, nil
				}
				return reading(raw)(ctx)
			})
			if err == nil {
				holds(r, registry, raw)
			} else if problem.KindOf(err) != problem.Unreachable {
				r.Errorf("error is %v", err)
			}
			if err != nil && len(cuts) < 3 {
				r.Errorf("%d cuts made it fail: %v", len(cuts), err)
			}
			// Whole three times, and what was lost. Who lies is believed until it
			// shows, at the end of an upload at the latest. One that is cut more
			// often than it goes on has none.
			most := 3*size + lost
			if lies {
				most += size
				if len(cuts) > 5 {
					most += size
				}
			}
			if sent := fake.Received(); sent > most {
				r.Errorf("%d bytes were sent, of a blob of %d", sent, size)
			}
			if n := fake.Uploads(); n != 0 {
				r.Errorf("%d uploads are open", n)
			}
		})
	})
}
