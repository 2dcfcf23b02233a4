module github.com/regkeeper/regkeeper/consumer/differential/peer

go 1.26.0
