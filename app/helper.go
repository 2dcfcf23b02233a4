package app

import (
	"net/http"

	"github.com/regkeeper/regkeeper/helper"
)

// Logins answers the questions for logins that the credential helper asks on the
// control socket: those of a folder whose state is in a cluster.
func Logins(data *Data) http.Handler { return helper.Handler(data.Store.Load) }
