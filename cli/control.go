package cli

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/url"

	"github.com/regkeeper/regkeeper/app"
	"github.com/regkeeper/regkeeper/daemon"
	"github.com/regkeeper/regkeeper/helper"
	"github.com/regkeeper/regkeeper/keeper"
	"github.com/regkeeper/regkeeper/problem"
)

// call sends a request to the daemon that has the data folder.
func call(ctx context.Context, folder, method, path string) (*http.Response, error) {
	client := http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", app.Control(folder))
		},
		DisableKeepAlives: true,
	}}
	request, err := http.NewRequestWithContext(ctx, method, "http://regkeeper"+path, nil)
	if err != nil {
		return nil, err
	}
	return client.Do(request)
}

// lends adds the questions of the credential helper to those of the control socket.
func lends(control http.Handler, data *app.Data) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", control)
	mux.Handle("GET "+helper.Path, app.Logins(data))
	return mux
}

// order has the daemon make a pass. ok says whether there is one that took the
// order.
func order(ctx context.Context, folder string, rotate keeper.Rotate) (result keeper.Result, ok bool, err error) {
	query := url.Values{}
	for _, host := range rotate.Hosts {
		query.Add("rotate", string(host))
	}
	if rotate.All {
		query.Set("all", "")
	}
	response, err := call(ctx, folder, http.MethodPost, "/sync?"+query.Encode())
	if err != nil {
		return result, false, err
	}
	defer func() { _ = response.Body.Close() }()
	var outcome daemon.Outcome
	if err := json.NewDecoder(response.Body).Decode(&outcome); err != nil {
		return result, false, err
	}
	if outcome.Result != nil {
		result = *outcome.Result
	}
	if outcome.Problem != "" {
		return result, true, problem.New(outcome.Kind, outcome.Hint, "%s", outcome.Problem)
	}
	return result, true, nil
}
