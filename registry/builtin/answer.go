package builtin

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/regkeeper/regkeeper/problem"
)

// The error codes of the OCI distribution specification 1.1, section Error
// Codes, that this package answers with. A 4xx answer may have no others.
const (
	codeBlobUnknown     = "BLOB_UNKNOWN"
	codeUploadUnknown   = "BLOB_UPLOAD_UNKNOWN"
	codeDenied          = "DENIED"
	codeDigestInvalid   = "DIGEST_INVALID"
	codeManifestInvalid = "MANIFEST_INVALID"
	codeManifestUnknown = "MANIFEST_UNKNOWN"
	codeNameInvalid     = "NAME_INVALID"
	codeNameUnknown     = "NAME_UNKNOWN"
	codeUnauthorized    = "UNAUTHORIZED"
	codeUnsupported     = "UNSUPPORTED"
)

// The codes for 5xx answers, on which the specification says nothing; they are
// those of distribution's registry/api/errcode.
const (
	codeUnavailable = "UNAVAILABLE"
	codeUnknown     = "UNKNOWN"
)

// refusal is an error that is answered as it stands.
type refusal struct {
	status    int
	code      string
	message   string
	challenge string // WWW-Authenticate, RFC 9110 section 11.6.1
	allow     string // Allow, RFC 9110 section 10.2.1
	cause     error  // for the log, not for the client
}

func (r *refusal) Error() string {
	if r.cause != nil {
		return r.message + ": " + r.cause.Error()
	}
	return r.message
}

// Unwrap returns the cause.
func (r *refusal) Unwrap() error { return r.cause }

var (
	errNoRoute    = &refusal{status: http.StatusNotFound, code: codeUnsupported, message: "there is nothing at this path"}
	errNoManifest = &refusal{status: http.StatusNotFound, code: codeManifestUnknown, message: "manifest is not known"}
	errNoName     = &refusal{status: http.StatusNotFound, code: codeNameUnknown, message: "repository is not known"}
	errNoBlob     = &refusal{status: http.StatusNotFound, code: codeBlobUnknown, message: "blob is not known"}
	errNoUpload   = &refusal{status: http.StatusNotFound, code: codeUploadUnknown, message: "upload is not known"}
)

// asRefusal is the one place where an error becomes an answer. What went wrong
// inside is for the log, not for the client.
func asRefusal(err error) *refusal {
	var r *refusal
	switch {
	case errors.As(err, &r):
		return r
	case problem.KindOf(err) == problem.Damaged, problem.KindOf(err) == problem.Storage:
		return &refusal{status: http.StatusServiceUnavailable, code: codeUnavailable, message: "the registry cannot check logins now"}
	}
	return &refusal{status: http.StatusInternalServerError, code: codeUnknown, message: "the registry failed"}
}

// answer is a response that is complete whoever writes it: a failure without a
// body gets one, in the form of the OCI distribution specification.
type answer struct {
	http.ResponseWriter
	status int
	body   bool
}

var _ io.ReaderFrom = (*answer)(nil)

func (a *answer) WriteHeader(status int) {
	a.status = status
	// olareg names the type of its errors after the header is gone.
	if status >= http.StatusBadRequest && a.Header().Get("Content-Type") == "" {
		a.Header().Set("Content-Type", "application/json")
	}
	a.ResponseWriter.WriteHeader(status)
}

func (a *answer) Write(p []byte) (int, error) {
	a.begin()
	return a.ResponseWriter.Write(p)
}

// ReadFrom lets blobs go from file to socket without a copy.
func (a *answer) ReadFrom(r io.Reader) (int64, error) {
	a.begin()
	return io.Copy(a.ResponseWriter, r)
}

// Unwrap is for [http.ResponseController].
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

func (a *answer) begin() {
	if a.status == 0 {
		a.WriteHeader(http.StatusOK)
	}
	a.body = true
}

// finish writes the error, or the body that a failure lacks.
func (a *answer) finish(err error) {
	switch {
	case err != nil && a.status == 0:
		refused := asRefusal(err)
		if refused.challenge != "" {
			a.Header().Set("WWW-Authenticate", refused.challenge)
		}
		if refused.allow != "" {
			a.Header().Set("Allow", refused.allow)
		}
		_ = writeJSON(a, refused.status, errorBody(refused.code, refused.message))
	case a.status >= http.StatusBadRequest && !a.body:
		code := codeUnknown
		if a.status < http.StatusInternalServerError {
			code = codeUnsupported
		}
		_ = json.NewEncoder(a).Encode(errorBody(code, http.StatusText(a.status)))
	}
}

type ociError struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

type ociErrors struct {
	Errors []ociError `json:"errors"`
}

func errorBody(code, message string) ociErrors {
	return ociErrors{Errors: []ociError{{Code: code, Message: message}}}
}

func writeJSON(w http.ResponseWriter, status int, body any) error {
	data, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("encode answer: %w", err)
	}
	if w.Header().Get("Content-Type") == "" {
		w.Header().Set("Content-Type", "application/json")
	}
	w.Header().Set("Content-Length", fmt.Sprint(len(data)))
	w.WriteHeader(status)
	if _, err := w.Write(data); err != nil {
		return fmt.Errorf("write answer: %w", err)
	}
	return nil
}
