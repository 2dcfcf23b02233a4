// Package harbor is the source that mints robot accounts of a project at a
// Harbor server (2.2 or later), with the rights to its images alone.
//
// It refuses robot accounts of the whole system, and to end one that it did not
// name: a robot account is looked up by its name before it is deleted.
//
// The API is asked without Harbor's own library, which has every call of the
// server and brings go-openapi's runtime with it for the four here.
package harbor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/internal/secretref"
	"github.com/regkeeper/regkeeper/internal/transport"
	"github.com/regkeeper/regkeeper/internal/transport/rest"
	"github.com/regkeeper/regkeeper/problem"
)

// Config says where robot accounts are minted, and for which images.
type Config struct {
	// URL is the server's root, for example https://harbor.example.com.
	URL string
	// Project is the one whose images the robot accounts may use, by its name.
	Project string
	// User is who mints them: an administrator of the project, or a robot
	// account with the rights to read the project, to create, list and delete
	// robot accounts, and all that the minted ones get.
	User string
	// Password is the user's password, or the robot account's secret.
	Password secretref.Ref
	// Transport sends the requests.
	Transport http.RoundTripper
	// Now is the clock.
	Now func() time.Time
}

// Source mints robot accounts. The ID of one is its name without the prefix of
// the server and the project, since looking that up finds none but our own. Its
// life is counted in whole days: it ends up to a day later than asked.
type Source struct{ config Config }

var _ credential.Minter = (*Source)(nil)

const (
	// pageSize is the most that Harbor's API has on a page.
	pageSize = 100
	// mostWalks is how often a list is read that changes as it is read.
	mostWalks = 6
	// forever is the duration of a robot account that does not expire, and
	// what its expires_at is then (Harbor API 2.0, "RobotCreate").
	forever = -1
	day     = 24 * time.Hour
	// mostDays is below the most that the API takes.
	mostDays = 1<<31 - 2
)

// New makes the source. It sends nothing yet.
func New(config Config) *Source {
	config.URL = strings.TrimSuffix(config.URL, "/")
	return &Source{config: config}
}

// access is one right (Harbor API 2.0, "Access").
type access struct {
	Resource string `json:"resource"`
	Action   string `json:"action"`
}

// permission is rights to one project (Harbor API 2.0, "RobotPermission").
type permission struct {
	Kind      string   `json:"kind"`
	Namespace string   `json:"namespace"`
	Access    []access `json:"access"`
}

// robot is what the API tells of a robot account (Harbor API 2.0, "Robot" and
// "RobotCreated").
type robot struct {
	ID int64 `json:"id"`
	// Name is the username: the server's prefix, the project, +, and the name
	// that was asked for.
	Name    string    `json:"name"`
	Secret  string    `json:"secret"`
	Created time.Time `json:"creation_time"`
	Expires int64     `json:"expires_at"`
}

// rights are those that scopes stand for. Who pulls may see what there is to
// pull, as a guest of the project may. To push is to ask first what is there
// already, and to delete is to find it: both take pulling.
func rights(scopes credential.Scopes) []access {
	all := []access{
		{"repository", "pull"}, {"repository", "list"},
		{"artifact", "list"}, {"artifact", "read"}, {"tag", "list"}, {"accessory", "list"},
	}
	if scopes.Has(credential.Push) {
		all = append(all, access{"repository", "push"})
	}
	if scopes.Has(credential.Delete) {
		all = append(all, access{"artifact", "delete"}, access{"tag", "delete"})
	}
	return all
}

// Issue mints a robot account; see [credential.Source].
func (s *Source) Issue(ctx context.Context, req credential.Request) (credential.Credential, error) {
	what := "mint a robot account"
	now := s.config.Now()
	body := map[string]any{
		"name": req.Name, "description": "minted by regkeeper", "level": "project", "disable": false,
		"duration":    days(req.Expires, now),
		"permissions": []permission{{Kind: "project", Namespace: s.config.Project, Access: rights(req.Scopes)}},
	}
	var made robot
	if _, err := s.ask(ctx, what, http.MethodPost, "/robots", nil, body, &made); err != nil {
		return credential.Credential{}, err
	}
	if name, ok := s.nameOf(made.Name); !ok || name != req.Name || made.Secret == "" {
		return credential.Credential{}, problem.New(problem.Unreachable, foreignHint,
			"%s in %s at %s: the answer has no robot account of that name", what, s.config.Project, s.config.URL)
	}
	login := credential.Credential{
		ID: req.Name, Name: req.Name, Host: req.Host, Username: made.Name,
		Secret: credential.NewSecret(made.Secret), Scopes: req.Scopes, Issued: now,
	}
	if made.Expires > 0 {
		login.Expires = time.Unix(made.Expires, 0).UTC()
	}
	return login, nil
}

// days is the duration of a robot account that must not end before a time.
func days(expires, now time.Time) int64 {
	if expires.IsZero() {
		return forever
	}
	whole := int64((expires.Sub(now) + day - 1) / day)
	return min(max(whole, 1), mostDays)
}

// nameOf is the name that was asked for, of a robot account's full name. It is
// not ok for one of another project. What comes before the project is the
// server's to choose; neither a project's name nor a robot's has a +.
func (s *Source) nameOf(full string) (name string, ok bool) {
	before, name, ok := strings.Cut(full, "+")
	return name, ok && strings.HasSuffix(before, s.config.Project) && name != ""
}

// Issued lists the robot accounts with our mark; see [credential.Minter].
func (s *Source) Issued(ctx context.Context, mark credential.Mark) iter.Seq2[credential.Issued, error] {
	return func(yield func(credential.Issued, error) bool) {
		if mark == "" {
			return
		}
		robots, err := s.list(ctx, "list robot accounts", string(mark))
		if err != nil {
			yield(credential.Issued{}, err)
			return
		}
		for _, robot := range robots {
			name, ok := s.nameOf(robot.Name)
			if ok && mark.Owns(name) && !yield(credential.Issued{ID: name, Name: name, Created: robot.Created}, nil) {
				return
			}
		}
	}
}

// Revoke deletes a robot account; see [credential.Minter]. A token that Harbor's
// registry handed out for it stays good for half an hour, unless the server is
// set up otherwise.
func (s *Source) Revoke(ctx context.Context, id string) error {
	what := "delete a robot account"
	robots, err := s.list(ctx, what, id)
	if err != nil {
		return err
	}
	for _, robot := range robots {
		if name, ok := s.nameOf(robot.Name); !ok || name != id {
			continue
		}
		_, err := s.ask(ctx, what, http.MethodDelete, "/robots/"+strconv.FormatInt(robot.ID, 10), nil, nil, nil)
		if err != nil && !rest.Missing(err) {
			return err
		}
	}
	return nil
}

// list lists the project's robot accounts whose names have the part, and perhaps
// others. A list of several pages is read until two readings agree: what moves
// from page to page meanwhile may be missed by one.
func (s *Source) list(ctx context.Context, what, part string) ([]robot, error) {
	var project struct {
		ID int64 `json:"project_id"`
	}
	if _, err := s.ask(ctx, what, http.MethodGet, "/projects/"+url.PathEscape(s.config.Project), nil, nil, &project); err != nil {
		return nil, err
	}
	if project.ID <= 0 {
		return nil, problem.New(problem.Unreachable, foreignHint, "%s in %s at %s: the answer has no project", what, s.config.Project, s.config.URL)
	}
	query := url.Values{
		"q":    {fmt.Sprintf("Level=project,ProjectID=%d,Name=~%s", project.ID, part)},
		"sort": {"id"}, "page_size": {strconv.Itoa(pageSize)},
	}
	var before map[int64]robot
	for range mostWalks {
		found, pages, err := s.walk(ctx, what, query)
		if err != nil {
			return nil, err
		}
		if pages == 1 || before != nil && maps.EqualFunc(before, found, func(a, b robot) bool { return a.Name == b.Name }) {
			ids := slices.Sorted(maps.Keys(found))
			robots := make([]robot, len(ids))
			for i, id := range ids {
				robots[i] = found[id]
			}
			return robots, nil
		}
		before = found
	}
	return nil, problem.New(problem.Unreachable, "try again when fewer robot accounts are made or deleted there",
		"%s in %s at %s: the list changed as it was read, %d times", what, s.config.Project, s.config.URL, mostWalks)
}

// walk reads a list once, page by page.
func (s *Source) walk(ctx context.Context, what string, query url.Values) (found map[int64]robot, pages int, err error) {
	found = map[int64]robot{}
	for page := 1; ; page++ {
		query.Set("page", strconv.Itoa(page))
		var rows []robot
		header, err := s.ask(ctx, what, http.MethodGet, "/robots", query, nil, &rows)
		if err != nil {
			return nil, 0, err
		}
		for _, row := range rows {
			found[row.ID] = row
		}
		// Where the server does not tell how many there are, a page with
		// nothing is the last.
		total, err := strconv.Atoi(header.Get("X-Total-Count"))
		if len(rows) == 0 || err == nil && len(found) >= total {
			return found, page, nil
		}
	}
}

const foreignHint = "the answer is not Harbor's: check the url, and proxies before the server"

// ask asks the API. A body is sent as JSON.
func (s *Source) ask(ctx context.Context, what, method, path string, query url.Values, body, out any) (http.Header, error) {
	where := fmt.Sprintf("%s in %s at %s", what, s.config.Project, s.config.URL)
	password, err := s.config.Password.Resolve(ctx)
	if err != nil {
		return nil, fmt.Errorf("%s: get the password of %s: %w", where, s.config.User, err)
	}
	var raw []byte
	if body != nil {
		if raw, err = json.Marshal(body); err != nil {
			return nil, fmt.Errorf("%s: %w", where, err)
		}
	}
	client := rest.Client{URL: s.config.URL + "/api/v2.0", Transport: s.config.Transport}
	header, err := client.Do(ctx, method, path, query, func(request *http.Request) {
		request.SetBasicAuth(s.config.User, password.Reveal())
		// A project whose name is a number is not the one of that number.
		request.Header.Set("X-Is-Resource-Name", "true")
		if raw == nil {
			return
		}
		request.Header.Set("Content-Type", "application/json")
		request.ContentLength = int64(len(raw))
		request.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(raw)), nil }
		request.Body, _ = request.GetBody()
	}, out)
	return header, explain(transport.Conceal(err, s.config.User, password.Reveal()), where)
}

// explain makes a problem of the server's answer. It returns nil for nil.
func explain(err error, where string) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, context.Canceled) {
		return fmt.Errorf("%s: %w", where, err)
	}
	switch status := rest.Status(err); {
	case status == 0:
		return problem.Wrap(err, problem.Unreachable, "check that the server is up, its url, and that it is a Harbor of version 2.2 or later", "%s", where)
	case status == http.StatusUnauthorized:
		return problem.Wrap(fmt.Errorf("%w: %w", credential.ErrRefused, err), problem.Denied,
			"check user and password; a user who logs in by OIDC has no password for the API: give a local user or a robot account", "%s", where)
	case status == http.StatusForbidden:
		return problem.Wrap(fmt.Errorf("%w: %w", credential.ErrRefused, err), problem.Denied,
			"the user must be an administrator of the project; a robot account needs the rights to read the project, to create, list and delete robot accounts, and all that it gives", "%s", where)
	case status == http.StatusConflict:
		return problem.Wrap(err, problem.Busy, "a robot account of that name is there already", "%s", where)
	case status == http.StatusBadRequest:
		return problem.Wrap(err, problem.Unreachable, "the server does not take the request: check that it is a Harbor of version 2.2 or later", "%s", where)
	case rest.Missing(err):
		return problem.Wrap(err, problem.NotFound, "check the project and url in the configuration; robot accounts need Harbor 2.2 or later", "%s", where)
	case status == http.StatusNotFound || status/100 == 3:
		return problem.Wrap(err, problem.Unreachable, foreignHint, "%s", where)
	}
	return problem.Wrap(err, problem.Unreachable, "the server answered with an error of its own: look at its log", "%s", where)
}
